"""Runs train_cifar.py and sends itself a signal at a chosen moment: python killed.py MOMENT SIGNAL
FOLDER IMAGES FLAG ...

A moment is the start of something that a run does: a step on a device, or an event of a file under
FOLDER - opened, brought to the disk, renamed, deleted. They are counted from 1; at MOMENT the
process gets SIGNAL. MOMENT 0 lets it run, and prints their number. IMAGES: so many of DIGITS'
images take part in training and testing, 0 for all.
"""

import os
import pathlib
import signal
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
EVENTS = ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir")


class Moments:
    def __init__(self, moment, number, folder):
        self.moment, self.number, self.folder, self.count = (
            moment,
            number,
            os.path.abspath(folder),
            0,
        )

    def pass_one(self):
        self.count += 1
        if self.count == self.moment:
            os.kill(os.getpid(), self.number)

    def hear(self, event, arguments):
        # What is opened by its number, or from within C, has no path here.
        if (
            event in EVENTS
            and isinstance(arguments[0], str)
            and os.path.abspath(arguments[0]).startswith(self.folder)
        ):
            self.pass_one()

    def before(self, function):
        def counted(*arguments, **settings):
            self.pass_one()
            return function(*arguments, **settings)

        return counted


def few(load, images):
    def load_few():
        x_train, y_train, x_test, y_test = load()
        return x_train[:images], y_train[:images], x_test[:images], y_test[:images]

    return load_few


def main():
    moment, number, folder, images, *flags = sys.argv[1:]
    sys.argv = ["train_cifar.py", "--train_path", folder, *flags]
    moments = Moments(int(moment), signal.Signals(int(number)), folder)
    os.fsync = moments.before(os.fsync)
    sys.addaudithook(moments.hear)

    import train_cifar
    from cli.program import run_program
    from dataloader import digits

    if int(images):
        digits.load_digits = few(digits.load_digits, int(images))

    def program():
        print("listening", flush=True)
        from distribution import startup

        startup.import_tensorflow()
        from distribution.step import Step

        Step.__call__, Step.several = moments.before(Step.__call__), moments.before(Step.several)
        train_cifar.main()

    code = run_program(program, resumable=True)
    print(f"moments: {moments.count}")
    return code


if __name__ == "__main__":
    sys.exit(main())
