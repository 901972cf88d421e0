/* A pass of a transformer of the Llama family over rows of tokens, in bf16 with AVX-512.
 *
 * Every row is a token with its position and the pages of keys and values that it sees. What is
 * computed for a row is computed by one thread in an order that is the same in any company, so its
 * bits depend neither on the other rows nor on the number of threads.
 *
 * Values are rounded to bf16 where the modules of transformers round them.
 */

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

enum {
    COLUMNS = 48,   /* of a block of weights: three vectors */
    ROWS = 8,       /* that are multiplied with a block at a time: 24 sums in registers */
    CHUNK = 64,     /* rows of a task */
    DEPTH = 2048,   /* of a block that stays in the processor's cache */
    PAGE = 16,      /* tokens of a page: one vector of scores */
    GROUP = 64,     /* numbers of 8 bits that have a scale in common */
    INT8_ROWS = 4,  /* that are multiplied with a block of 8 bits at a time */
    INT8_GROUP = GROUP * COLUMNS + 8 * COLUMNS, /* bytes of a group of a block: weights, scales, shifts */
};

typedef struct {
    void *packed;     /* bf16 [blocks][K / 2][COLUMNS][2], or groups of 8 bits (see below) */
    const bf16 *bias; /* [N], or none */
    int32_t outputs;  /* N */
    int32_t inputs;   /* K */
    int32_t bits;     /* 16 or 8 */
} Linear;

typedef struct {
    const bf16 *input_norm;
    const bf16 *output_norm;
    const bf16 *query_norm; /* [d], or none */
    const bf16 *key_norm;   /* [d], or none */
    Linear qkv;
    Linear out;
    Linear gate_up;
    Linear down;
} Layer;

typedef struct {
    int32_t layers;
    int32_t hidden;
    int32_t heads;
    int32_t key_heads;
    int32_t head_size;
    int32_t inner;
    float eps;
    float attention_scale;
    const bf16 *embedding; /* [V, hidden] */
    const bf16 *norm;
    const bf16 *cosine; /* [positions, head_size / 2] */
    const bf16 *sine;
    const Layer *layer;
    Linear head;
} Model;

typedef struct {
    int32_t rows;
    int32_t outputs;          /* rows whose logits are wanted */
    int32_t table_width;
    int32_t most_tokens;      /* that a row sees */
    const int32_t *token;     /* [rows] */
    const int32_t *position;  /* [rows] */
    const int32_t *branch;    /* [rows], whose pages it sees */
    const int32_t *table;     /* [branches, table_width] of page numbers */
    const int32_t *output;    /* [outputs], the rows whose logits are wanted */
    char *const *page;        /* by number; each holds all layers */
    bf16 *logits;             /* [outputs, V] */
    char *scratch;            /* of scratch_size() bytes */
    int32_t threads;
} Pass;

/* --- Numbers */

static inline float widen(bf16 x)
{
    union { uint32_t u; float f; } bits = {(uint32_t)x << 16};
    return bits.f;
}

static inline bf16 narrow(float x)
{
    return (bf16)_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(x)), 0);
}

static inline __m512 load16(const bf16 *x)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline void store16(bf16 *y, __m512 x)
{
    _mm256_storeu_si256((__m256i *)y, (__m256i)_mm512_cvtneps_pbh(x));
}

/* What a number is once it has been stored as bf16. */
static inline __m512 round16(__m512 x)
{
    __m512i wide = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* e to the x, to about 2 units in the last place; next to 0 far below, infinite far above. */
static inline __m512 exp16(__m512 x)
{
    const __m512 log2e = _mm512_set1_ps(1.44269504088896341f);
    x = _mm512_max_ps(x, _mm512_set1_ps(-126.0f * 0.69314718f));
    x = _mm512_min_ps(x, _mm512_set1_ps(129.0f * 0.69314718f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

/* --- Products */

/* What is done for each of so many rows. Sums are variables of their own, since compilers keep arrays
 * of them in memory. */
#define EACH_1(DO) DO(0)
#define EACH_2(DO) EACH_1(DO) DO(1)
#define EACH_3(DO) EACH_2(DO) DO(2)
#define EACH_4(DO) EACH_3(DO) DO(3)
#define EACH_5(DO) EACH_4(DO) DO(4)
#define EACH_6(DO) EACH_5(DO) DO(5)
#define EACH_7(DO) EACH_6(DO) DO(6)
#define EACH_8(DO) EACH_7(DO) DO(7)

#define LOAD_SUMS(r)                                                                               \
    __m512 sum##r##0 = _mm512_load_ps(sums + r * COLUMNS);                                         \
    __m512 sum##r##1 = _mm512_load_ps(sums + r * COLUMNS + 16);                                    \
    __m512 sum##r##2 = _mm512_load_ps(sums + r * COLUMNS + 32);

#define STORE_SUMS(r)                                                                              \
    _mm512_store_ps(sums + r * COLUMNS, sum##r##0);                                                \
    _mm512_store_ps(sums + r * COLUMNS + 16, sum##r##1);                                           \
    _mm512_store_ps(sums + r * COLUMNS + 32, sum##r##2);

#define ADD_PRODUCTS(r)                                                                            \
    {                                                                                              \
        const __m512bh pair = (__m512bh)spread(x + r * stride + k);                                \
        sum##r##0 = _mm512_dpbf16_ps(sum##r##0, pair, w0);                                         \
        sum##r##1 = _mm512_dpbf16_ps(sum##r##1, pair, w1);                                         \
        sum##r##2 = _mm512_dpbf16_ps(sum##r##2, pair, w2);                                         \
    }

/* Four bytes, again and again. */
static inline __m512i spread(const void *from)
{
    int32_t bytes;
    memcpy(&bytes, from, 4);
    return _mm512_set1_epi32(bytes);
}

/* sums [R, COLUMNS] += x [R, depth] times a block of weights. */
#define DEFINE_TILE(R)                                                                             \
    static void multiply_##R(const bf16 *x, size_t stride, const bf16 *block, int depth, float *sums) \
    {                                                                                              \
        EACH_##R(LOAD_SUMS)                                                                        \
        for (int k = 0; k < depth; k += 2) {                                                       \
            const bf16 *w = block + (size_t)k * COLUMNS;                                           \
            const __m512bh w0 = (__m512bh)_mm512_load_si512(w);                                    \
            const __m512bh w1 = (__m512bh)_mm512_load_si512(w + 32);                               \
            const __m512bh w2 = (__m512bh)_mm512_load_si512(w + 64);                               \
            EACH_##R(ADD_PRODUCTS)                                                                 \
        }                                                                                          \
        EACH_##R(STORE_SUMS)                                                                       \
    }

DEFINE_TILE(1)
DEFINE_TILE(2)
DEFINE_TILE(3)
DEFINE_TILE(4)
DEFINE_TILE(5)
DEFINE_TILE(6)
DEFINE_TILE(7)
DEFINE_TILE(8)

typedef void (*Tile)(const bf16 *, size_t, const bf16 *, int, float *);
static const Tile TILES[ROWS + 1] = {
    0, multiply_1, multiply_2, multiply_3, multiply_4, multiply_5, multiply_6, multiply_7, multiply_8,
};

static inline int smaller(int a, int b) { return a < b ? a : b; }

/* Write the sums [rows, COLUMNS] of a block, with its biases, to the rows of y. */
static void write_sums(const Linear *w, const float *sums, bf16 *y, int first, int rows, int block)
{
    const int begin = block * COLUMNS, columns = smaller(COLUMNS, w->outputs - begin);
    for (int row = 0; row < rows; row++) {
        bf16 *out = y + (size_t)(first + row) * w->outputs + begin;
        for (int c = 0; c < columns; c += 16) {
            const __mmask16 there = (__mmask16)((1u << smaller(16, columns - c)) - 1);
            __m512 v = _mm512_load_ps(sums + row * COLUMNS + c);
            if (w->bias) {
                const __m256i bias = _mm256_maskz_loadu_epi16(there, w->bias + begin + c);
                v = _mm512_add_ps(v, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bias), 16)));
            }
            _mm256_mask_storeu_epi16(out + c, there, (__m256i)_mm512_cvtneps_pbh(v));
        }
    }
}

/* y [M, N] = x [M, K] times weights of 16 bits, shared among the threads of the region that calls it. */
static void multiply_bf16(const Linear *w, const bf16 *x, bf16 *y, int count)
{
    const int inputs = w->inputs;
    const int blocks = (w->outputs + COLUMNS - 1) / COLUMNS;
    const int chunks = (count + CHUNK - 1) / CHUNK;
#pragma omp for schedule(dynamic)
    for (int task = 0; task < blocks * chunks; task++) {
        const int block = task / chunks, first = task % chunks * CHUNK;
        const int rows = smaller(CHUNK, count - first);
        const bf16 *packed = (const bf16 *)w->packed + (size_t)block * COLUMNS * inputs;
        _Alignas(64) float sums[CHUNK * COLUMNS];
        memset(sums, 0, sizeof(float) * rows * COLUMNS);
        for (int k = 0; k < inputs; k += DEPTH)
            for (int row = 0; row < rows; row += ROWS)
                TILES[smaller(ROWS, rows - row)](
                    x + (size_t)(first + row) * inputs + k, inputs, packed + (size_t)k * COLUMNS,
                    smaller(DEPTH, inputs - k), sums + row * COLUMNS);
        write_sums(w, sums, y, first, rows, block);
    }
}

/* --- Products with weights of 8 bits
 *
 * Numbers of a row, and weights of a column, are scaled in groups so that the largest is 127. The
 * instruction takes unsigned numbers on one side, so those of a row are moved by 128, and sums begin
 * at what takes that off again. They are of whole numbers, and so exact in any order. */

/* Written out, since GCC 12 copies the sums of its own function twice. */
#define ADD_BYTES(SUM, A, B) __asm__("vpdpbusd %2, %1, %0" : "+v"(SUM) : "v"(A), "v"(B))

#define LOAD_INT8_SUMS(r)                                                                          \
    __m512 sum##r##0 = _mm512_setzero_ps();                                                        \
    __m512 sum##r##1 = _mm512_setzero_ps();                                                        \
    __m512 sum##r##2 = _mm512_setzero_ps();

#define BEGIN_GROUP(r)                                                                             \
    __m512i whole##r##0 = _mm512_load_si512(shifts);                                               \
    __m512i whole##r##1 = _mm512_load_si512(shifts + 16);                                          \
    __m512i whole##r##2 = _mm512_load_si512(shifts + 32);

#define ADD_INT8_PRODUCTS(r)                                                                       \
    {                                                                                              \
        const __m512i four = spread(x + r * stride + k);                                           \
        ADD_BYTES(whole##r##0, four, w0);                                                        \
        ADD_BYTES(whole##r##1, four, w1);                                                        \
        ADD_BYTES(whole##r##2, four, w2);                                                        \
    }

#define END_GROUP(r)                                                                               \
    {                                                                                              \
        const __m512 own = _mm512_set1_ps(x_scales[r * groups + group]);                           \
        sum##r##0 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole##r##0), _mm512_mul_ps(own, s0), sum##r##0); \
        sum##r##1 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole##r##1), _mm512_mul_ps(own, s1), sum##r##1); \
        sum##r##2 = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole##r##2), _mm512_mul_ps(own, s2), sum##r##2); \
    }

/* sums [R, COLUMNS] = x [R, groups * GROUP] times a block of weights of 8 bits. */
#define DEFINE_INT8_TILE(R)                                                                        \
    static void multiply_int8_##R(const uint8_t *x, const float *x_scales, int groups, const char *block, float *sums) \
    {                                                                                              \
        const size_t stride = (size_t)groups * GROUP;                                              \
        EACH_##R(LOAD_INT8_SUMS)                                                                   \
        for (int group = 0; group < groups; group++, block += INT8_GROUP, x += GROUP) {            \
            const float *scales = (const float *)(block + GROUP * COLUMNS);                        \
            const int32_t *shifts = (const int32_t *)(scales + COLUMNS);                           \
            EACH_##R(BEGIN_GROUP)                                                                  \
            for (int k = 0; k < GROUP; k += 4) {                                                   \
                const char *w = block + k * COLUMNS;                                               \
                const __m512i w0 = _mm512_load_si512(w);                                           \
                const __m512i w1 = _mm512_load_si512(w + 64);                                      \
                const __m512i w2 = _mm512_load_si512(w + 128);                                     \
                EACH_##R(ADD_INT8_PRODUCTS)                                                        \
            }                                                                                      \
            const __m512 s0 = _mm512_load_ps(scales);                                              \
            const __m512 s1 = _mm512_load_ps(scales + 16);                                         \
            const __m512 s2 = _mm512_load_ps(scales + 32);                                         \
            EACH_##R(END_GROUP)                                                                    \
        }                                                                                          \
        EACH_##R(STORE_SUMS)                                                                       \
    }

DEFINE_INT8_TILE(1)
DEFINE_INT8_TILE(2)
DEFINE_INT8_TILE(3)
DEFINE_INT8_TILE(4)

typedef void (*Int8Tile)(const uint8_t *, const float *, int, const char *, float *);
static const Int8Tile INT8_TILES[INT8_ROWS + 1] = {
    0, multiply_int8_1, multiply_int8_2, multiply_int8_3, multiply_int8_4,
};

static int count_groups(int inputs) { return (inputs + GROUP - 1) / GROUP; }

/* bytes [groups * GROUP] and scales [groups] of x [size]: x / scale, rounded and moved by `shift`. */
static void quantise(const bf16 *x, uint8_t *bytes, float *scales, int size, int shift)
{
    const __m512i moved = _mm512_set1_epi32(shift);
    for (int group = 0; group < count_groups(size); group++) {
        __m512 part[GROUP / 16], most = _mm512_setzero_ps();
        for (int v = 0; v < GROUP / 16; v++) {
            const int at = group * GROUP + 16 * v;
            part[v] = at < size ? load16(x + at) : _mm512_setzero_ps();
            most = _mm512_max_ps(most, _mm512_abs_ps(part[v]));
        }
        const float largest = _mm512_reduce_max_ps(most);
        scales[group] = largest > 0 ? largest / 127.0f : 1.0f;
        const __m512 factor = _mm512_set1_ps(1.0f / scales[group]);
        for (int v = 0; v < GROUP / 16; v++) {
            const __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(part[v], factor)), moved);
            _mm_storeu_si128((__m128i *)(bytes + group * GROUP + 16 * v), _mm512_cvtepi32_epi8(whole));
        }
    }
}

/* y [M, N] = x [M, K] times weights of 8 bits, shared among the threads of the region that calls it.
 * bytes, scales: room for x in 8 bits */
static void multiply_int8(const Linear *w, const bf16 *x, bf16 *y, int count, uint8_t *bytes, float *scales)
{
    const int groups = count_groups(w->inputs), width = groups * GROUP;
    const int blocks = (w->outputs + COLUMNS - 1) / COLUMNS;
    const int chunks = (count + CHUNK - 1) / CHUNK;
#pragma omp for
    for (int row = 0; row < count; row++)
        quantise(x + (size_t)row * w->inputs, bytes + (size_t)row * width, scales + (size_t)row * groups, w->inputs, 128);
#pragma omp for schedule(dynamic)
    for (int task = 0; task < blocks * chunks; task++) {
        const int block = task / chunks, first = task % chunks * CHUNK;
        const int rows = smaller(CHUNK, count - first);
        const char *packed = (const char *)w->packed + (size_t)block * groups * INT8_GROUP;
        _Alignas(64) float sums[CHUNK * COLUMNS];
        for (int row = 0; row < rows; row += INT8_ROWS)
            INT8_TILES[smaller(INT8_ROWS, rows - row)](
                bytes + (size_t)(first + row) * width, scales + (size_t)(first + row) * groups, groups, packed,
                sums + row * COLUMNS);
        write_sums(w, sums, y, first, rows, block);
    }
}

/* y = x times the weights, as they are kept. */
static void multiply(const Linear *w, const bf16 *x, bf16 *y, int count, uint8_t *bytes, float *scales)
{
    if (w->bits == 8)
        multiply_int8(w, x, y, count, bytes, scales);
    else
        multiply_bf16(w, x, y, count);
}

/* --- Between the products */

/* y = x / rms(x) * weight of one row. */
static void normalise(const bf16 *x, const bf16 *weight, bf16 *y, int size, float eps)
{
    __m512 squares = _mm512_setzero_ps();
    for (int i = 0; i < size; i += 16) {
        __m512 v = load16(x + i);
        squares = _mm512_fmadd_ps(v, v, squares);
    }
    const float mean = _mm512_reduce_add_ps(squares) / size;
    const __m512 factor = _mm512_set1_ps(1.0f / sqrtf(mean + eps));
    for (int i = 0; i < size; i += 16) {
        __m512 v = round16(_mm512_mul_ps(load16(x + i), factor));
        store16(y + i, _mm512_mul_ps(v, load16(weight + i)));
    }
}

/* x += y of one row. */
static void add(bf16 *x, const bf16 *y, int size)
{
    for (int i = 0; i < size; i += 16)
        store16(x + i, _mm512_add_ps(load16(x + i), load16(y + i)));
}

/* y = silu(gate) * up of one row.   [2 * inner] -> [inner] */
static void gate(const bf16 *gate_up, bf16 *y, int inner)
{
    const __m512 one = _mm512_set1_ps(1.0f), zero = _mm512_setzero_ps();
    for (int i = 0; i < inner; i += 16) {
        __m512 g = load16(gate_up + i);
        __m512 silu = _mm512_div_ps(g, _mm512_add_ps(one, exp16(_mm512_sub_ps(zero, g))));
        store16(y + i, _mm512_mul_ps(round16(silu), load16(gate_up + inner + i)));
    }
}

/* Turn a head by its position, in place. */
static void rotate(bf16 *x, const bf16 *cosine, const bf16 *sine, int size)
{
    const int half = size / 2;
    for (int i = 0; i < half; i++) {
        const float a = widen(x[i]), b = widen(x[half + i]);
        const float c = widen(cosine[i]), s = widen(sine[i]);
        x[i] = narrow(widen(narrow(a * c)) - widen(narrow(b * s)));
        x[half + i] = narrow(widen(narrow(b * c)) + widen(narrow(a * s)));
    }
}

/* --- Keys and values: a page holds [layer][K keys, K values], keys [d / 2][PAGE][2], values [PAGE][d] */

static inline size_t page_half(const Model *m) { return (size_t)m->key_heads * PAGE * m->head_size; }

static inline bf16 *page_of(const Model *m, const Pass *p, int branch, int index, int layer)
{
    const int number = p->table[(size_t)branch * p->table_width + index];
    return (bf16 *)p->page[number] + 2 * page_half(m) * layer;
}

/* Turn the query and the key of a row, and write key and value into its page. */
static void place(const Model *m, const Pass *p, const Layer *layer, int number, int row, bf16 *qkv)
{
    const int d = m->head_size, position = p->position[row];
    const bf16 *cosine = m->cosine + (size_t)position * (d / 2);
    const bf16 *sine = m->sine + (size_t)position * (d / 2);
    for (int head = 0; head < m->heads + m->key_heads; head++) {
        bf16 *x = qkv + head * d;
        const bf16 *norm = head < m->heads ? layer->query_norm : layer->key_norm;
        if (norm)
            normalise(x, norm, x, d, m->eps);
        rotate(x, cosine, sine, d);
    }
    const bf16 *key = qkv + m->heads * d, *value = key + m->key_heads * d;
    bf16 *page = page_of(m, p, p->branch[row], position / PAGE, number);
    const int slot = position % PAGE;
    for (int head = 0; head < m->key_heads; head++) {
        bf16 *keys = page + (size_t)head * PAGE * d;
        for (int i = 0; i < d; i += 2)
            memcpy(keys + i * PAGE + 2 * slot, key + head * d + i, 4);
        memcpy(page + page_half(m) + (size_t)head * PAGE * d + slot * d, value + head * d, 2 * d);
    }
}

/* Ask for the tokens of a page before they are needed: pages lie far apart. */
static inline void fetch(const bf16 *from, int d)
{
    for (int i = 0; i < d * PAGE; i += 32)
        _mm_prefetch((const char *)(from + i), _MM_HINT_T0);
}

/* What `count` query heads of a row take from the tokens that it sees, all of one key head.
 * scores: room for `count` of each token */
static inline __attribute__((always_inline)) void attend(const Model *m, const Pass *p, int layer, int row, int key_head,
                                                         const bf16 *query, bf16 *out, float *scores, const int count,
                                                         const int d)
{
    const int tokens = p->position[row] + 1, pages = (tokens + PAGE - 1) / PAGE, branch = p->branch[row];
    const size_t offset = (size_t)key_head * PAGE * d, values_at = offset + page_half(m);
    const int room = pages * PAGE;
    const __m512 scale = _mm512_set1_ps(m->attention_scale), nothing = _mm512_set1_ps(-INFINITY);
    __m512 most[3] = {nothing, nothing, nothing};
    const bf16 *page = page_of(m, p, branch, 0, layer);
    for (int index = 0; index < pages; index++) {
        const bf16 *keys = page + offset;
        fetch(page + values_at, d);
        if (index + 1 < pages) {
            page = page_of(m, p, branch, index + 1, layer);
            fetch(page + offset, d);
        }
        __m512 even[3], odd[3];
        for (int h = 0; h < count; h++)
            even[h] = odd[h] = _mm512_setzero_ps();
        for (int i = 0; i < d; i += 4) {
            const __m512bh k0 = (__m512bh)_mm512_loadu_si512(keys + i * PAGE);
            const __m512bh k1 = (__m512bh)_mm512_loadu_si512(keys + (i + 2) * PAGE);
            for (int h = 0; h < count; h++) {
                even[h] = _mm512_dpbf16_ps(even[h], (__m512bh)spread(query + h * d + i), k0);
                odd[h] = _mm512_dpbf16_ps(odd[h], (__m512bh)spread(query + h * d + i + 2), k1);
            }
        }
        const __mmask16 seen = (__mmask16)((1u << smaller(PAGE, tokens - index * PAGE)) - 1);
        for (int h = 0; h < count; h++) {
            __m512 s = _mm512_mul_ps(_mm512_add_ps(even[h], odd[h]), scale);
            s = _mm512_mask_mov_ps(nothing, seen, s);
            most[h] = _mm512_max_ps(most[h], s);
            _mm512_storeu_ps(scores + h * room + index * PAGE, s);
        }
    }
    __m512 share[3];
    for (int h = 0; h < count; h++) {
        const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most[h]));
        __m512 total = _mm512_setzero_ps();
        for (int index = 0; index < pages; index++) {
            float *at = scores + h * room + index * PAGE;
            const __mmask16 seen = (__mmask16)((1u << smaller(PAGE, tokens - index * PAGE)) - 1);
            const __m512 e = _mm512_maskz_mov_ps(seen, exp16(_mm512_sub_ps(_mm512_loadu_ps(at), top)));
            total = _mm512_add_ps(total, e);
            _mm512_storeu_ps(at, e);
        }
        share[h] = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(total));
    }
    for (int part = 0; part < d; part += 64) {
        const int vectors = smaller(64, d - part) / 16;
        __m512 sum[3][4];
        for (int h = 0; h < count; h++)
            for (int v = 0; v < 4; v++)
                sum[h][v] = _mm512_setzero_ps();
        for (int index = 0; index < pages; index++) {
            const bf16 *values = page_of(m, p, branch, index, layer) + values_at + part;
            const int seen = smaller(PAGE, tokens - index * PAGE);
            for (int slot = 0; slot < seen; slot++)
                for (int v = 0; v < vectors; v++) {
                    const __m512 value = load16(values + slot * d + 16 * v);
                    for (int h = 0; h < count; h++) {
                        const __m512 e = _mm512_set1_ps(scores[h * room + index * PAGE + slot]);
                        sum[h][v] = _mm512_fmadd_ps(e, value, sum[h][v]);
                    }
                }
        }
        for (int h = 0; h < count; h++)
            for (int v = 0; v < vectors; v++)
                store16(out + h * d + part + 16 * v, _mm512_mul_ps(sum[h][v], share[h]));
    }
}

#define ATTEND(COUNT, SIZE) attend(m, p, layer, row, key_head, query, out, scores, COUNT, SIZE)

/* The query heads of one key head, at most three at a time, compiled for the usual sizes. */
static void attend_heads(const Model *m, const Pass *p, int layer, int row, int key_head, const bf16 *query, bf16 *out,
                         float *scores)
{
    const int d = m->head_size;
    int left = m->heads / m->key_heads;
    while (left > 0) {
        const int count = smaller(3, left);
        if (d == 64 && count == 3)
            ATTEND(3, 64);
        else if (d == 64 && count == 2)
            ATTEND(2, 64);
        else if (d == 64)
            ATTEND(1, 64);
        else if (d == 128 && count == 3)
            ATTEND(3, 128);
        else if (d == 128 && count == 2)
            ATTEND(2, 128);
        else if (d == 128)
            ATTEND(1, 128);
        else
            ATTEND(count, d);
        left -= count;
        query += count * d;
        out += count * d;
    }
}

/* --- A pass */

static size_t align(size_t bytes) { return (bytes + 63) / 64 * 64; }

static int larger(int a, int b) { return a > b ? a : b; }

static int qkv_size(const Model *m) { return (m->heads + 2 * m->key_heads) * m->head_size; }

/* The widest rows that meet weights. */
static int widest(const Model *m) { return larger(larger(m->heads * m->head_size, m->inner), m->hidden); }

/* The bytes of `scratch` for a pass of so many rows and threads, of which each sees at most so many tokens. */
size_t scratch_size(const Model *m, int rows, int most_tokens, int threads)
{
    const size_t scores = align(3 * sizeof(float) * (most_tokens + PAGE)) * threads;
    const size_t streams = 2 * align(2 * (size_t)rows * m->hidden);
    const size_t wide = align(2 * (size_t)rows * larger(qkv_size(m), 2 * m->inner));
    const int groups = count_groups(widest(m));
    const size_t inner = align(2 * (size_t)rows * widest(m)) + align((size_t)rows * groups * GROUP);
    return scores + streams + wide + inner + align(sizeof(float) * rows * groups);
}

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
#endif

void run_pass(const Model *m, const Pass *p)
{
    const int rows = p->rows, hidden = m->hidden, d = m->head_size, width = qkv_size(m);
    const size_t score_bytes = align(3 * sizeof(float) * (p->most_tokens + PAGE));
    char *at = p->scratch + score_bytes * p->threads;
    bf16 *x = (bf16 *)at; /* the stream between the layers */
    at += align(2 * (size_t)rows * hidden);
    bf16 *narrow_rows = (bf16 *)at;
    at += align(2 * (size_t)rows * hidden);
    bf16 *wide_rows = (bf16 *)at;
    at += align(2 * (size_t)rows * larger(width, 2 * m->inner));
    bf16 *inner_rows = (bf16 *)at;
    at += align(2 * (size_t)rows * widest(m));
    uint8_t *bytes = (uint8_t *)at; /* of rows that meet weights of 8 bits */
    at += align((size_t)rows * count_groups(widest(m)) * GROUP);
    float *scales = (float *)at;
#pragma omp parallel num_threads(p->threads)
    {
        float *scores = (float *)(p->scratch + score_bytes * omp_get_thread_num());
#pragma omp for
        for (int row = 0; row < rows; row++)
            memcpy(x + (size_t)row * hidden, m->embedding + (size_t)p->token[row] * hidden, 2 * hidden);
        for (int number = 0; number < m->layers; number++) {
            const Layer *layer = m->layer + number;
#pragma omp for
            for (int row = 0; row < rows; row++)
                normalise(x + (size_t)row * hidden, layer->input_norm, narrow_rows + (size_t)row * hidden, hidden, m->eps);
            multiply(&layer->qkv, narrow_rows, wide_rows, rows, bytes, scales);
#pragma omp for
            for (int row = 0; row < rows; row++)
                place(m, p, layer, number, row, wide_rows + (size_t)row * width);
#pragma omp for schedule(dynamic)
            for (int task = 0; task < rows * m->key_heads; task++) {
                const int row = task / m->key_heads, key_head = task % m->key_heads;
                const size_t first = (size_t)key_head * (m->heads / m->key_heads) * d;
                attend_heads(m, p, number, row, key_head, wide_rows + (size_t)row * width + first,
                             inner_rows + (size_t)row * m->heads * d + first, scores);
            }
            multiply(&layer->out, inner_rows, narrow_rows, rows, bytes, scales);
#pragma omp for
            for (int row = 0; row < rows; row++) {
                bf16 *stream = x + (size_t)row * hidden, *other = narrow_rows + (size_t)row * hidden;
                add(stream, other, hidden);
                normalise(stream, layer->output_norm, other, hidden, m->eps);
            }
            multiply(&layer->gate_up, narrow_rows, wide_rows, rows, bytes, scales);
#pragma omp for
            for (int row = 0; row < rows; row++)
                gate(wide_rows + (size_t)row * 2 * m->inner, inner_rows + (size_t)row * m->inner, m->inner);
            multiply(&layer->down, inner_rows, narrow_rows, rows, bytes, scales);
#pragma omp for
            for (int row = 0; row < rows; row++)
                add(x + (size_t)row * hidden, narrow_rows + (size_t)row * hidden, hidden);
        }
#pragma omp for
        for (int index = 0; index < p->outputs; index++)
            normalise(x + (size_t)p->output[index] * hidden, m->norm, narrow_rows + (size_t)index * hidden, hidden, m->eps);
        multiply(&m->head, narrow_rows, p->logits, p->outputs, bytes, scales);
    }
}

/* --- Weights */

static void pack_row(const Linear *to, const bf16 *from, int column)
{
    bf16 *block = (bf16 *)to->packed + (size_t)(column / COLUMNS) * COLUMNS * to->inputs + 2 * (column % COLUMNS);
    for (int k = 0; k < to->inputs; k += 2)
        memcpy(block + (size_t)k * COLUMNS, from + k, 4);
}

static void pack_row_int8(const Linear *to, const bf16 *from, int column)
{
    const int groups = count_groups(to->inputs);
    char *block = (char *)to->packed + (size_t)(column / COLUMNS) * groups * INT8_GROUP;
    const int lane = column % COLUMNS;
    for (int group = 0; group < groups; group++, block += INT8_GROUP) {
        int8_t line[GROUP];
        float *scales = (float *)(block + GROUP * COLUMNS);
        int32_t *shifts = (int32_t *)(scales + COLUMNS), sum = 0;
        quantise(from + group * GROUP, (uint8_t *)line, scales + lane, smaller(GROUP, to->inputs - group * GROUP), 0);
        for (int k = 0; k < GROUP; k++)
            sum += line[k];
        shifts[lane] = -128 * sum;
        for (int k = 0; k < GROUP; k += 4)
            memcpy(block + k * COLUMNS + 4 * lane, line + k, 4);
    }
}

/* Lay weights [N, K] into blocks, from column `first` of the packed ones on. */
void pack(const Linear *to, const bf16 *weights, int outputs, int first, int threads)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int row = 0; row < outputs; row++) {
        const bf16 *from = weights + (size_t)row * to->inputs;
        if (to->bits == 8)
            pack_row_int8(to, from, first + row);
        else
            pack_row(to, from, first + row);
    }
}

/* The bytes of a product's packed weights. */
size_t packed_size(const Linear *w)
{
    const size_t blocks = (w->outputs + COLUMNS - 1) / COLUMNS;
    return w->bits == 8 ? blocks * count_groups(w->inputs) * INT8_GROUP : blocks * COLUMNS * w->inputs * sizeof(bf16);
}
