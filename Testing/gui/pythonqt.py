"""Makes PySide6 behave like PythonQt, which is how Slicer's modules see Qt.

In PythonQt a Qt property is an attribute (`button.text`, `combo.count`), `name` is the object's
name, signals are connected by their C++ signature (`connect("clicked(bool)", slot)`), and setting
an attribute that the class does not have is an error. `QT` holds one such class for each QObject
of PySide6; `make_qt` makes the module `qt` of them. Where PythonQt would only print a warning, this
raises: an unknown signal, an unknown attribute.
"""
# ruff: noqa: N801, N802, N815  (the names are those of Qt and Slicer)

from __future__ import annotations

import ctypes
import functools
import os
import sys
import types

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import shiboken6
from PySide6 import QtCore, QtGui, QtWidgets

QObject = QtCore.QObject
_APPLICATIONS = ("QCoreApplication", "QGuiApplication", "QApplication")

# Qt calls these of its virtual methods through the Python object, so they must stay methods.
_VIRTUAL = {"sizeHint", "minimumSizeHint", "size", "pos", "rect", "geometry", "frameGeometry"}
_METHODS = _VIRTUAL | {"layout", "objectName"}  # and this is a method in PythonQt too
# Asked for while Python itself looks for attributes.
_PLAIN = {"metaObject", "property", "setProperty", "dynamicPropertyNames", "event", "eventFilter"}

_property_names: dict[type, frozenset[str]] = {}
_reading: set[tuple[int, str]] = set()


if sys.version_info < (3, 12):
    # PySide6 6.12 gives away references to these that it does not own, for example with each emit,
    # and the interpreter aborts when none is left. From Python 3.12 on they are not counted.
    for constant in (None, True, False):
        ctypes.c_ssize_t.from_address(id(constant)).value += 1 << 40


def properties_of(thing: QObject) -> frozenset[str]:
    """Names of the Qt properties of an object's class."""
    kind = type(thing)
    if kind not in _property_names:
        meta = kind.staticMetaObject
        names = (meta.property(index).name() for index in range(meta.propertyCount()))
        _property_names[kind] = frozenset(names)
    return _property_names[kind]


class PythonQtAccess:
    """Attribute access as in PythonQt, for a class that also inherits from one of PySide6."""

    # What Slicer's widgets emit with types that PySide6 cannot name: signature -> signal.
    signals: dict[str, str] = {}

    def __getattribute__(self, name):
        get = super().__getattribute__
        if name.startswith("_") or name in _PLAIN or not shiboken6.isValid(self):
            return get(name)
        if name in _CONNECTING:  # PySide6 would hand out QObject's static methods
            return functools.partial(_CONNECTING[name], self)
        if name == "name":
            return QObject.property(self, "objectName")
        if name in _METHODS or name not in properties_of(self) or _python_property(self, name):
            return get(name)
        key = (id(self), name)
        if key in _reading:  # the property's C++ getter asks for a method of the same name
            return get(name)
        _reading.add(key)
        try:
            return QObject.property(self, name)
        finally:
            _reading.discard(key)

    def __setattr__(self, name, value):
        # PySide6's loader of .ui files hangs each widget onto the top one, under its name.
        by_loader = isinstance(value, QObject) and QObject.objectName(value) == name
        if name.startswith("_") or by_loader or not shiboken6.isValid(self):
            super().__setattr__(name, value)
        elif name == "name":
            QObject.setProperty(self, "objectName", value)
        elif _python_property(self, name):
            super().__setattr__(name, value)
        elif name not in properties_of(self):
            raise AttributeError(f"{type(self).__name__} has no property {name!r}")
        elif not QObject.setProperty(self, name, value):
            raise TypeError(f"{type(self).__name__}.{name} cannot be {value!r}")

    def className(self):
        return type(self).__name__

    def delete(self):
        self.deleteLater()


def _python_property(thing, name: str) -> bool:
    """Whether a class of these tests, not of PySide6, defines this property or method."""
    for kind in type(thing).__mro__:
        if kind.__module__.startswith("PySide6"):
            return False
        if name in kind.__dict__:
            return True
    return False


def signal_of(thing, signature: str):
    """The signal of a C++ signature; raises AttributeError where the class has no such signal."""
    if signature in type(thing).signals:
        return getattr(thing, type(thing).signals[signature])
    normalized = QtCore.QMetaObject.normalizedSignature(signature).data().decode()
    if type(thing).staticMetaObject.indexOfSignal(normalized) < 0:
        raise AttributeError(f"{type(thing).__name__} has no signal {signature}")
    return getattr(thing, signature.partition("(")[0])


def _connect(thing, signature: str, slot) -> bool:
    """Call the slot with as many arguments as the signature has."""
    count = len([part for part in signature.partition("(")[2].rstrip(")").split(",") if part])
    # PySide6 looks at how many arguments a function takes.
    call = (lambda: slot(), lambda a: slot(a), lambda a, b: slot(a, b))[count]
    signal_of(thing, signature).connect(call)
    thing.__dict__.setdefault("_slots", []).append((signature, slot, call))
    return True


def _disconnect(thing, signature: str, slot) -> bool:
    """Undo a connect with the same arguments."""
    for entry in thing.__dict__.get("_slots", []):
        if entry[:2] == (signature, slot):
            signal_of(thing, signature).disconnect(entry[2])
            thing._slots.remove(entry)
            return True
    raise RuntimeError(f"{signature} was not connected to {slot}")


_CONNECTING = {"connect": _connect, "disconnect": _disconnect}


def _like_pythonqt(kind: type) -> type:
    if not issubclass(kind, QObject) or kind.__name__ in _APPLICATIONS:
        return kind
    return type(kind.__name__, (PythonQtAccess, kind), {"__module__": "qt"})


def _classes() -> types.SimpleNamespace:
    found = {}
    for module in (QtCore, QtGui, QtWidgets):
        for name in dir(module):  # PySide6 fills its modules only when it is asked
            kind = getattr(module, name)
            if name.startswith("Q") and isinstance(kind, type):
                found[name] = _like_pythonqt(kind)
    return types.SimpleNamespace(**found)


QT = _classes()


def make_qt(loader: type) -> types.ModuleType:
    """The module `qt`, with a QUiLoader."""
    module = types.ModuleType("qt")
    vars(module).update(vars(QT), Qt=QtCore.Qt, QUiLoader=loader)
    module.QFile.ReadOnly = QtCore.QIODevice.OpenModeFlag.ReadOnly
    module.Signal, module.Slot, module.Property = QtCore.Signal, QtCore.Slot, QtCore.Property
    return module
