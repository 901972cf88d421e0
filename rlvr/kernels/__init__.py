"""Compiled arithmetic of the local engine: a pass of a Llama-like transformer in bf16, with AVX-512.

Imports no room.
"""
