"""Reads pickles without unpickling them.

A pickle is a program for a machine that calls whatever the program names, and Python's own
unpickler is that machine: it reserves what a length in the file promises, sets attributes on
whatever BUILD is aimed at, hashes keys that were made to collide. So the few opcodes that arrays,
numbers and plain containers need are carried out here, on a stack of plain values. A name becomes
one of the functions a caller of `run` admits, or the file is refused; nothing else can be called or
changed.
"""

import pickletools

# CIFAR-100's training file has 200,000; each makes 200 bytes at most, with its place in the memo
MOST_OPCODES = 2**19
# bits; the hashes of wider integers can be made equal, and a dict of them takes quadratic time
WIDEST_KEY = 64


class UnsafePickle(Exception):
    """The file names something that is neither a NumPy array of numbers nor a plain container."""


class Name:
    """What a global name of a pickle stands for: a function that may be called, or None for one
    that is only handed on.
    """

    __slots__ = ("function", "text")

    def __init__(self, text, function=None):
        self.text, self.function = text, function


class Built:
    """Base of values that get their state later in the pickle, by BUILD: `set_state(state)`."""

    __slots__ = ()


def run(stream, names, encoding="ASCII", persistent=None):
    """The value that a pickle leaves: None, bool, int, float, str, bytes, list, tuple, dict and
    what `names` make.

    stream: io.BytesIO, left behind the end of the pickle. names: {(module, name): Name}. encoding:
    how the strings of Python 2 are read, "bytes" leaves them bytes. persistent(id) answers
    BINPERSID, which is refused without it. Raises UnsafePickle for a name or an opcode that is not
    admitted; a damaged pickle may raise nearly anything. Takes memory for what the file really
    holds, whatever lengths it announces.
    """
    machine = _Machine(names, encoding, persistent, stream.getbuffer().nbytes)
    # genops believes no length: reading more from memory than is there gives what is there.
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count == MOST_OPCODES:
            raise ValueError(f"more than {MOST_OPCODES} opcodes")
        step = _STEPS.get(opcode.name)
        if step is None:
            raise UnsafePickle(
                f"opcode {opcode.name}" + (f" {argument}"[:100] if argument is not None else "")
            )
        step(machine, argument)
    return machine.stack.pop()


def plain_key(key):
    """`key`, if a dict may have it; raises ValueError."""
    if isinstance(key, (str, bytes)) or (isinstance(key, int) and key.bit_length() <= WIDEST_KEY):
        return key
    raise ValueError(
        f"a key that is a {type(key).__name__}, not a name or a number of {WIDEST_KEY} bits"
    )


class _Machine:
    def __init__(self, names, encoding, persistent, size):
        self.names, self.encoding, self.persistent = names, encoding, persistent
        self.stack, self.outer, self.memo = [], [], {}  # outer: the stacks below the marks
        self.may_make = {bytes: size, dict: MOST_OPCODES}  # bytes, keys

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
        self.top(list).extend(items)

    def update(self, items):
        self.top(dict).update(_pairs(items))

    def put(self, index):
        self.memo[index] = self.stack[-1]

    def look_up(self, module, name):
        if not (module and name):
            raise ValueError("a name of no letters")
        if (module, name) not in self.names:
            raise UnsafePickle(f"{module}.{name}"[:200])
        self.push(self.names[module, name])

    def stack_global(self):
        module, name = self.take(2)
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        self.look_up(module, name)

    def call(self):
        function, arguments = self.take(2)
        if type(function) is not Name or function.function is None or type(arguments) is not tuple:
            raise ValueError(
                f"a call of {function.text if type(function) is Name else type(function).__name__}"
            )
        made = function.function(*arguments)
        if type(made) in self.may_make:
            # An intact file makes each of its strings and dicts once: not a megabyte again and
            # again by naming it.
            self.may_make[type(made)] -= len(made)
            if self.may_make[type(made)] < 0:
                raise ValueError("calls that make more than the file holds")
        self.push(made)

    def build(self):
        (state,) = self.take(1)
        if isinstance(self.stack[-1], Built):
            self.stack[-1].set_state(state)
        elif (
            type(self.stack[-1]) is not dict
        ):  # an OrderedDict may come with attributes; PyTorch's has `_metadata`
            raise ValueError(f"a state for a {type(self.stack[-1]).__name__}")

    def persistent_id(self):
        if self.persistent is None:
            raise UnsafePickle("a persistent id")
        self.push(self.persistent(*self.take(1)))


def _pairs(items):
    if len(items) % 2:
        raise ValueError("a key without a value")
    return {plain_key(key): value for key, value in zip(items[::2], items[1::2])}


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
    "DICT": lambda m, _: m.push(_pairs(m.since_mark())),
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
