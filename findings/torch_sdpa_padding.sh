#!/bin/sh
# torch 2.13.0, on a processor: scaled_dot_product_attention in bfloat16 gives a query other last digits when keys that its mask hides
# are added behind. One would expect hidden keys to change nothing, since each has weight zero.
#
# Seen on an AMD EPYC with AVX512-BF16, two threads, 9 query and 3 key heads of 64, a causal mask, the same first keys and values:
#   from 20 to 44 keys: not the same bits; from 64 to 128: the same bits
# The products of two calls of torch.bmm with a softmax between them, filled up to a multiple of 32 keys, had the same bits in all cases.
# Consequence: whoever pads prompts of a batch to the longest gets other logits, and so now and then another token, by the neighbours.
# On a processor without such instructions the kernel may differ; the script then says so and fails.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --index-url https://download.pytorch.org/whl/cpu "torch==2.13.0" 2>/dev/null ||
    "$folder/venv/bin/pip" install --quiet "torch==2.13.0"
"$folder/venv/bin/pip" install --quiet "numpy==2.3.5"
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torch.nn.functional as F

torch.set_num_threads(2)
HEADS, KEY_HEADS, SIZE = 9, 3, 64


def make(count, heads, seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, heads, count, SIZE, generator=draw).bfloat16()


def hide(count, width):
    mask = torch.ones(width, width, dtype=torch.bool).tril()
    mask[:, count:] = False
    return mask | torch.eye(width, dtype=torch.bool)


def attend(count, width):
    query, key = make(count, HEADS, 1), make(count, KEY_HEADS, 2)
    query, key = (F.pad(x, (0, 0, 0, width - count)) for x in (query, key))
    out = F.scaled_dot_product_attention(query, key, key, attn_mask=hide(count, width), enable_gqa=True)
    return out[:, :, :count]


def multiply(count, width):
    query, key = make(count, HEADS, 1)[0], make(count, KEY_HEADS, 2)[0].repeat_interleave(3, 0)
    query, key = (F.pad(x, (0, 0, 0, width - count)) for x in (query, key))
    scores = torch.bmm(query * SIZE**-0.5, key.mT).masked_fill(~hide(count, width), -torch.inf)
    return torch.bmm(scores.softmax(-1), key)[:, :count]


print("torch", torch.__version__)
short = torch.equal(attend(20, 20), attend(20, 44))
long = torch.equal(attend(64, 64), attend(64, 128))
plain = all(torch.equal(multiply(n, 64), multiply(n, w)) for n in (20, 40, 64) for w in (96, 128, 256))
print("fused, 20 keys and 24 hidden ones, the same bits:", short)
print("fused, 64 keys and 64 hidden ones, the same bits:", long)
print("plain products filled up to a multiple of 32, the same bits:", plain)
assert (short, long, plain) == (False, True, True), "the behaviour changed"
PYTHON
