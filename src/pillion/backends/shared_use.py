"""A change that is there while anyone uses it: made for the first user, undone behind the last.

Knows nothing of what is changed.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, ClassVar, TypeVar

_Kind = TypeVar("_Kind", bound="FollowedMethods")


class SharedUse:
    """Many threads may use it at once.

    Args:
        change: inside the context that it gives, the change is there.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[object]]) -> None:
        self._change, self._made = change, ExitStack()
        self._users, self._lock = 0, threading.Lock()

    @contextmanager
    def held(self) -> Generator[None]:
        """Inside, the change is there."""
        with self._lock:
            if self._users == 0:
                self._made.enter_context(self._change())
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._made.close()


class FollowedMethods:
    """Methods of a module, in whose place its own run for as long as anyone follows them.

    Args:
        owner: the module; held weakly, as it is kept there. None where none has such methods.

    Attributes:
        METHODS: names of the module's methods, and of those that run in their place.
    """

    METHODS: ClassVar[Mapping[str, str]] = {}

    def __init__(self, owner: Any = None) -> None:
        self._owner: Callable[[], Any] = (lambda: None) if owner is None else weakref.ref(owner)
        self._following = SharedUse(self._replaced)
        self._plain: dict[str, Callable[..., Any]] = {}  # a user's own methods

    @classmethod
    def of(cls: type[_Kind], model: Any) -> _Kind:
        """Those of a model, or of that in a wrapper; one object a model."""
        owner = next(
            (one for one in model.modules() if all(hasattr(type(one), n) for n in cls.METHODS)),
            None,
        )
        if owner is None:
            return cls()
        with _MAKING:
            return _KNOWN.setdefault(owner, {}).setdefault(cls, cls(owner))

    @contextmanager
    def followed(self) -> Generator[None]:
        """Inside, they are followed; leaves the model as it was."""
        owner = self._owner()  # kept while it is followed
        with nullcontext() if owner is None else self._following.held():
            yield

    @contextmanager
    def _replaced(self) -> Generator[None]:
        own = vars(self._owner())
        self._plain = {name: own[name] for name in self.METHODS if name in own}
        own.update({name: getattr(self, other) for name, other in self.METHODS.items()})
        try:
            yield
        finally:
            for name in self.METHODS:
                del own[name]
            own.update(self._plain)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """The module's method of this name, as it would run if it were not followed."""
        if name in self._plain:
            return self._plain[name](*args, **kwargs)
        owner = self._owner()
        return getattr(type(owner), name)(owner, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> FollowedMethods:
        """A copy of the model runs its own methods, and has no watcher yet."""
        return type(self)(memo[id(self._owner())])


_KNOWN: weakref.WeakKeyDictionary[object, dict[type, Any]] = weakref.WeakKeyDictionary()
_MAKING = threading.Lock()
