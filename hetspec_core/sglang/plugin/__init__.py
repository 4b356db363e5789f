"""What runs inside SGLang's processes and tells the draft tree of every verify step to whoever looks.

Imported by SGLang's interpreter: nothing here needs more than torch, msgpack (or msgspec) and the standard library.
"""
