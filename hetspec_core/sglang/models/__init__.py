"""EAGLE classes that SGLang lacks, in the form of its external model package (SGLANG_EXTERNAL_MODEL_PACKAGE).

SGLang imports every module directly in here and registers what `EntryClass` names; a module that cannot be imported is
only warned about, so whoever starts a server sees in its log which class took the draft. Made for the versions in
`versions.INSIDE`; others are offered them where `versions` finds no difference. Nothing else of
HetSpec imports this package.
"""
