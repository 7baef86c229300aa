"""Peak of resident memory of this process."""

import contextlib
import platform
import resource


def reset_peak():
    """Resets the peak to what is resident now. Works on Linux only."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_rss_mib():
    """Peak in MiB since the last reset_peak; not on Linux: since the start of the process."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    unit = 1024 if platform.system() == "Linux" else 1024**2  # ru_maxrss: KiB, bytes on macOS
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
