"""EAGLE classes that SGLang lacks, in the form of its external model package (SGLANG_EXTERNAL_MODEL_PACKAGE).

SGLang imports every module of this package and registers what `EntryClass` names. It only warns about a module that
cannot be imported, so every family has a module of its own, and the log of a server is read for the class that took the
draft. The classes were run in the versions of `versions.INSIDE`; other versions get them where `versions.differences`
finds nothing. Nothing else of HetSpec imports this package.
"""
