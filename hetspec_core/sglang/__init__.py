"""SGLang as a backend: drafts are served, measured and watched in processes of SGLang, which are reached over HTTP.

The engine uses `backend` and `bench`, by the names on the backend's card; `serve` is a stage. `models`, `plugin` and
`offline_program` run inside SGLang's own processes, where what the rest of HetSpec needs is not installed.
"""
