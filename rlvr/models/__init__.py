"""Models of transformers as policy, reference and critic: loading, attention, packing, sharding,
export.
Imports distributed.
"""
