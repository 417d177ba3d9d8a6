"""The server: OpenAI's endpoints over the project's own scheduler, with many paths and live scores a request.

    body → `wire` (fields) → `asking` (what is asked) → `worker` (one thread, one scheduler) → `answers`, `live` (what is told)

`create_app` makes the application; nothing here is global. Needs the extra ``serve``.
"""
