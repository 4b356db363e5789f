"""The plugin that runs inside SGLang's processes: it sends the draft tree of every verify step to a viewer.

SGLang's interpreter imports it: it needs torch, msgspec (or msgpack) and the standard library, and nothing else. This
file holds what both sides of the process boundary must agree on.
"""

TREES_VARIABLE = "HETSPEC_SGLANG_TREES"
"""Environment variable: path of the socket on which trees are sent."""

NATIVE_VARIABLE = "HETSPEC_SGLANG_NATIVE"
"""Environment variable that is set where a server runs in float32."""

NATIVE_ENVIRONMENT = {NATIVE_VARIABLE: "1", "TRITON_F32_DEFAULT": "ieee"}
"""Variables of a server in float32. Without the second, Triton multiplies float32 matrices in TF32."""

RECORD_VERSION = 1
"""Version of the records. A reader ignores records of another version."""
