"""The argument parser of all programs, and the types of its numbers.

Nothing here imports TensorFlow, so that --help and a wrong flag are answered at once.
"""

import argparse
import math
import re
import shutil

from nets.catalogue import WIDEST

WIDEST_HELP, NARROW = 110, 60  # columns


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors, exit code 2, and no abbreviations of flags."""

    def __init__(self, **settings):
        super().__init__(formatter_class=_Help, allow_abbrev=False, **settings)
        # argparse's own pattern has no exponents: it would take the value of `--flag -1e-4` for
        # another flag. As a number it gets the error about its range. Nor has it -1..1, a range.
        self._negative_number_matcher = re.compile(
            r"-((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|inf|infinity|nan|\d+\.\.\d+)$", re.IGNORECASE
        )

    def hide(self, flags):
        """Leaves flags, given without their dashes, out of --help. They are parsed as before, so
        that a program can say why it does not take them."""
        for action in self._actions:
            if action.dest in flags:
                action.help = argparse.SUPPRESS

    def error(self, message):
        program = self.prog.partition(" ")[0]  # as in all other errors, without a subcommand
        self.exit(2, f"{program}: error: {message} (--help lists the options)\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def __init__(self, prog):
        columns = shutil.get_terminal_size((WIDEST_HELP + 2, 24)).columns
        super().__init__(prog, max_help_position=32, width=max(20, min(WIDEST_HELP, columns - 2)))

    def add_usage(self, usage, actions, groups, prefix=None):
        if usage is None and self._width < NARROW:  # one flag per line would fill screens
            names = [str(one.metavar or one.dest) for one in actions if not one.option_strings]
            usage = " ".join(["%(prog)s [options]", *names]).replace("%(prog)s", self._prog)
        super().add_usage(usage, actions, groups, prefix)

    def _get_default_metavar_for_optional(self, action):
        return getattr(action.type, "metavar", "TEXT")

    def _get_help_string(self, action):
        no_default = any(action.default is value for value in (None, False, argparse.SUPPRESS))
        return action.help if no_default else super()._get_help_string(action)


def _number(kind, least, most=None, above=False):
    """Returns an argparse type for numbers.

    kind: int or float; least: smallest value, excluded if `above`; most: largest value.
    """

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is not None and math.isfinite(value):
            high_enough = value > least if above else value >= least
            if high_enough and (most is None or value <= most):
                return value
        what = "a whole number" if kind is int else "a number"
        low = f"above {least}" if above else f"of at least {least}"
        high = f" and at most {most}" if most is not None else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not {what} {low}{high}")

    convert.metavar = "N" if kind is int else "X"
    return convert


def folder(text):
    """argparse type: the path of a folder that TensorFlow can write to."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not UTF-8, which the file for TensorBoard needs; choose another folder"
        ) from None
    return text


folder.metavar = "FOLDER"
count = _number(int, 1)


def odd(text):
    """argparse type: an odd number of at least 3."""
    value = _number(int, 3)(text)
    if value % 2 == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not an odd number")
    return value


odd.metavar = "N"
count_or_none = _number(int, 0)
share = _number(float, 0, 1, above=True)
positive = _number(float, 0, above=True)
not_negative = _number(float, 0)
part = _number(float, 0, 1)
side = _number(int, 32, 2048)
width = _number(float, 0, WIDEST, above=True)
