"""The subcommands of analyze.py, from parsed flags to results."""

import contextlib
import dataclasses

from analysis import landscape as landscapes
from analysis import pictures
from analysis.flags import hessian_options, image_options, landscape_options
from analysis.hessian import measure
from analysis.setting import make_setting
from analysis.subjects import subjects
from cli.options import device_options
from engine.signals import resumable_from_here


def _opened(args, kind, options):
    """(Setting, list of Subject, AnalysisFolder) of a command that looks at networks.

    options: dataclass of what decides the results, besides the images.
    """
    found = subjects(args.networks, args, args.step)
    devices, image = device_options(args), image_options(args)
    setting = make_setting(
        found[0].described, args.data_path, devices, image, args.image_batch_size
    )
    # One that does not fit is refused before anything is written. Each is built again when it is
    # loaded, which takes a fifth of a second: so memory is needed for one at a time.
    for file in (subject.described for subject in found):
        file.build(setting.data)
        if file.note:
            setting.console.say(file.note)
    folder = setting.folder(args.analysis_path, kind, options, args.overwrite)
    resumable_from_here()
    return setting, found, folder


def hessian(args):
    """Prints and writes the eigenvalues of each network's Hessian."""
    options = hessian_options(args)
    setting, found, folder = _opened(args, "hessian", options)
    say = setting.console.say
    with contextlib.closing(folder):
        for subject in found:
            loaded = setting.load(subject)
            figures = hessian_of(setting, loaded, options, folder)
            for line in lines_of(figures, options.tolerance):
                say(line)
            if figures["density"] is not None:
                name = f"{subject.name}-{loaded.digest[:8]}.png"
                say("  " + pictures.draw_density(folder.file(name), figures))
            elif options.density:
                say("  no density: lambda_max and lambda_min are equal")
    say(f"\nresults in {folder.path}")


def hessian_of(setting, loaded, options, folder):
    """dict of the figures of a Loaded network's Hessian, see analysis.hessian.measure."""
    subject = loaded.subject
    facts = {
        "name": subject.name,
        "file": subject.described.path,
        "step": None if subject.file else subject.search.step,
        "digest": loaded.digest,
        "arch": loaded.network.arch,
        "dataset": setting.data.name,
        "arrays": options.hessian_over,
        **dataclasses.asdict(setting.image),
    }
    setting.console.say(f"{subject.name}: {setting.data.name}, {len(setting.images):,} images")
    hessian = setting.hessian(loaded.network, options.hessian_over)
    name = f"{subject.name}-{loaded.digest[:8]}"
    return measure(hessian, options, folder, name, facts, setting.bar)


def lines_of(figures, tolerance):
    """Text lines about the figures of a Hessian."""
    largest = ", ".join(f"{value:.6g}" for value in figures["eigenvalues"])
    how = "residuals within" if figures["converged"] else "stopped before residuals were within"
    return [
        f"  loss              {figures['loss']:.6f}",
        f"  lambda_max        {largest}  (residual {figures['residual_max']:.1e})",
        f"  lambda_min        {figures['lambda_min']:.6g}"
        f"  (residual {figures['residual_min']:.1e})",
        f"  condition number  {figures['condition_number']:.4f}",
        f"  {figures['iterations']} products, {figures['parameters']:,} parameters,"
        f" {figures['seconds']:.0f} s; {how} {tolerance:g}",
    ]


def landscape(args):
    """Writes the loss around each network, on one grid, and its pictures."""
    options = landscape_options(args)
    setting, found, folder = _opened(args, "landscape", options)
    say = setting.console.say
    with contextlib.closing(folder):
        grid = landscapes.measure(setting, found, options, folder)
        for entry in grid["networks"]:
            say(f"  {entry['name']}: loss {entry['loss']:.6f} at the origin")
        say("  " + pictures.draw_landscapes(folder, grid))
    say(f"\nresults in {folder.path}")
