"""Reads untrusted pickles without Python's unpickler.

A pickle is a program, and Python's unpickler runs it: it calls any function the file names,
allocates any length the file announces, sets attributes on any object (BUILD), and hashes keys that
may be chosen to collide. This module runs only the opcodes that arrays, numbers and plain
containers need, on a stack of plain values. A global name must be in the table given to `run`, or
be known as inert: then its value is never made. Otherwise the file is refused. Nothing else can be
called or changed.
"""

import pickletools

# CIFAR-100's training file has 200,000. Each opcode takes at most 200 bytes, memo entry included.
MOST_OPCODES = 2**19
# Bits of an integer key. Wider integers can be chosen to have equal hashes, which makes a dict of
# them take quadratic time.
WIDEST_KEY = 64


class UnsafePickle(Exception):
    """The file contains something other than NumPy arrays of numbers and plain containers."""


class Name:
    """An allowed global name. function: called by REDUCE; None if the name may only be passed on
    as an argument.
    """

    __slots__ = ("function", "text")

    def __init__(self, text, function=None):
        self.text, self.function = text, function


class Inert:
    """Stands for a value of a class or function that was only recognised by its name, `text`.

    It is never made, called or changed; its arguments, state and items are dropped.
    """

    __slots__ = ("text",)

    def __init__(self, text):
        self.text = text


class Built:
    """Base of values that receive their state from the opcode BUILD, in `set_state(state)`."""

    __slots__ = ()


def run(stream, names, encoding="ASCII", persistent=None, inert=None):
    """Runs one pickle and returns its value.

    The value is made of None, bool, int, float, str, bytes, list, tuple, dict and whatever the
    functions in `names` return. Memory depends on the bytes in the file, not on the lengths it
    announces.

    Args:
        stream: io.BytesIO; afterwards it is positioned behind the pickle.
        names: {(module, name): Name}, the global names that are allowed.
        encoding: of strings from Python 2; "bytes" keeps them as bytes.
        persistent: function(id) that resolves BINPERSID; None refuses that opcode.
        inert: function(name, the name of the Inert that it follows, or None) -> whether values of
            that name are left as Inert; None refuses them all.

    Raises UnsafePickle for a name or an opcode that is not allowed. A damaged pickle can raise
    almost any exception.
    """
    machine = _Machine(names, encoding, persistent, inert, stream.getbuffer().nbytes)
    # genops is safe against false lengths: a BytesIO returns only the bytes it has.
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count == MOST_OPCODES:
            raise ValueError(f"more than {MOST_OPCODES} opcodes")
        step = _STEPS.get(opcode.name) or (_OF_INERT.get(opcode.name) if inert else None)
        if step is None:
            raise UnsafePickle(
                f"opcode {opcode.name}" + (f" {argument}"[:100] if argument is not None else "")
            )
        step(machine, argument)
    return machine.stack.pop()


def plain_key(key):
    """Returns `key` if it is allowed in a dict: str, bytes or a small int. Raises ValueError."""
    if isinstance(key, (str, bytes)) or (isinstance(key, int) and key.bit_length() <= WIDEST_KEY):
        return key
    raise ValueError(
        f"a dict key of type {type(key).__name__}, expected text or an int of {WIDEST_KEY} bits"
    )


class _Machine:
    """The state of a running pickle; the methods are its opcodes, see _STEPS."""

    def __init__(self, names, encoding, persistent, inert, size):
        self.names, self.encoding, self.persistent = names, encoding, persistent
        self.inert = inert
        self.stack, self.outer, self.memo = [], [], {}  # outer: the stacks below the marks
        # What calls may still return in total: bytes, and dict keys.
        self.allowance = {bytes: size, dict: MOST_OPCODES}

    def push(self, value):
        self.stack.append(value)

    def push_python_2(self, text):
        data = text.encode("latin1")  # genops gives each byte as a character
        self.push(data if self.encoding == "bytes" else data.decode(self.encoding))

    def mark(self):
        self.outer.append(self.stack)
        self.stack = []

    def since_mark(self):
        items = self.stack
        self.stack = self.outer.pop()
        return items

    def pop(self):
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def take(self, count):
        items = self.stack[len(self.stack) - count :]
        if len(items) < count:
            raise ValueError("an opcode without its operands")
        del self.stack[len(self.stack) - count :]
        return items

    def top(self, kind):
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"a {type(self.stack[-1]).__name__} treated as a {kind.__name__}")
        return self.stack[-1]

    def extend(self, items):
        if not isinstance(self.stack[-1], Inert):
            self.top(list).extend(items)

    def update(self, items):
        if not isinstance(self.stack[-1], Inert):
            self.top(dict).update(self.pairs(items))

    def pairs(self, items):
        """dict of keys and values in turn. Beside inert values, other keys than text and numbers
        are left out: dicts of settings have them, and no name of an array is one.
        """
        if len(items) % 2:
            raise ValueError("a key without a value")
        left_out = (type(None), float, tuple, Inert) if self.inert else ()
        return {
            plain_key(key): value
            for key, value in zip(items[::2], items[1::2])
            if type(key) not in left_out
        }

    def put(self, index):
        self.memo[index] = self.stack[-1]

    def look_up(self, module, name):
        if not (module and name):
            raise ValueError("an empty global name")
        if (module, name) in self.names:
            self.push(self.names[module, name])
            return
        text = f"{module}.{name}"
        last = self.stack[-1] if self.stack else None
        behind = last.text if isinstance(last, Inert) else None
        if self.inert is None or not self.inert(text, behind):
            raise UnsafePickle(text[:200])
        self.push(Inert(text))

    def stack_global(self):
        module, name = self.take(2)
        if type(module) is not str or type(name) is not str:
            raise ValueError("a global name that is not text")
        self.look_up(module, name)

    def call(self):
        function, arguments = self.take(2)
        if isinstance(function, Inert):
            self.push(function)
            return
        if type(function) is not Name or function.function is None or type(arguments) is not tuple:
            raise ValueError(
                f"a call of {function.text if type(function) is Name else type(function).__name__}"
            )
        for argument in arguments:
            if isinstance(argument, Inert):
                raise UnsafePickle(argument.text)
        made = function.function(*arguments)
        if type(made) in self.allowance:
            # An intact file creates each string and dict once. A malicious one may refer to the
            # same megabyte again and again to fill the memory.
            self.allowance[type(made)] -= len(made)
            if self.allowance[type(made)] < 0:
                raise ValueError("calls that return more data than the file contains")
        self.push(made)

    def new(self, operands):
        """NEWOBJ and NEWOBJ_EX: only of what is inert."""
        made, *_ = self.take(operands)
        if not isinstance(made, Inert):
            text = made.text if type(made) is Name else type(made).__name__
            raise UnsafePickle(f"opcode NEWOBJ{'_EX' * (operands > 2)} of {text}")
        self.push(made)

    def build(self):
        (state,) = self.take(1)
        if isinstance(self.stack[-1], Inert):
            return
        if isinstance(self.stack[-1], Built):
            self.stack[-1].set_state(state)
        # A dict's state is ignored: PyTorch's OrderedDict has an attribute `_metadata`.
        elif type(self.stack[-1]) is not dict:
            raise ValueError(f"a state for a {type(self.stack[-1]).__name__}")

    def persistent_id(self):
        if self.persistent is None:
            raise UnsafePickle("a persistent id")
        self.push(self.persistent(*self.take(1)))


_LITERALS = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE SHORT_BINUNICODE BINUNICODE"
    " BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8"
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_STEPS = {
    **dict.fromkeys(_LITERALS.split(), _Machine.push),
    **{name: lambda m, _, value=value: m.push(value) for name, value in _CONSTANTS.items()},
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _Machine.push_python_2),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, index: m.push(m.memo[index])),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "MARK": lambda m, _: m.mark(),
    "POP": lambda m, _: m.pop(),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "APPEND": lambda m, _: m.extend(m.take(1)),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": lambda m, _: m.push(m.pairs(m.since_mark())),
    "SETITEM": lambda m, _: m.update(m.take(2)),
    "SETITEMS": lambda m, _: m.update(m.since_mark()),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(m.take(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.take(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.take(3))),
    "GLOBAL": lambda m, names: m.look_up(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    "REDUCE": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.persistent_id(),
}
# Opcodes that only values which are left inert need.
_OF_INERT = {
    "NEWOBJ": lambda m, _: m.new(2),
    "NEWOBJ_EX": lambda m, _: m.new(3),
    "EMPTY_SET": lambda m, _: m.push(Inert("builtins.set")),
    "ADDITEMS": lambda m, _: m.extend(m.since_mark()),
    "FROZENSET": lambda m, _: (m.since_mark(), m.push(Inert("builtins.frozenset"))),
}
