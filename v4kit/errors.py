"""The error tree. Every message says what is wrong, what was given and what to do.

```
V4KitError
├── InputError (ValueError)         an argument that can't be used: prompt, sampling, record, ids
├── ModelError
│   ├── ModelNotFound               no such model: name, folder, or not reachable offline
│   ├── UnsupportedModel            a model without routers, or of a family the table lacks
│   └── ModelBusy                   another thread is using the model
├── EngineError                     a serving engine can't be reached, refuses, or answers wrongly
└── TraceError
    ├── TraceFormatError            not a trace, or a damaged one
    ├── TraceVersionError           written by a newer version
    └── TraceWriteError (OSError)   the disk is full or the place can't be written
```
"""

from __future__ import annotations

from typing import Any


class V4KitError(Exception):
    """Base of every error that the kit raises on purpose."""


class InputError(V4KitError, ValueError):
    """An argument that can't be used."""


class ModelError(V4KitError):
    """Something about a model."""


class ModelNotFound(ModelError):
    """There is no such model."""


class UnsupportedModel(ModelError):
    """The model has no routers, or its family is not in the table."""


class ModelBusy(ModelError):
    """Another thread is using the model."""


class EngineError(V4KitError):
    """A serving engine can't be reached, refuses, or answers what can't be right.

    `trace` is what had been received: the text, without its routes; None if nothing was. `status`
    is the HTTP status of a refusal.
    """

    def __init__(self, message: str, *, status: int | None = None, trace: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.trace = trace


class TraceError(V4KitError):
    """Something about a trace."""


class TraceFormatError(TraceError):
    """The file or folder is no trace, or a damaged one."""


class TraceVersionError(TraceError):
    """The trace was written by a newer version."""


class TraceWriteError(TraceError, OSError):
    """The trace could not be written."""
