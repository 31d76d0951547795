"""What all figures have in common."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#718096"


def axes_of(size):
    """A figure of `size` inches and its only axes."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def write_png(figure, file, *, dpi=100):
    """Write a figure into a PNG file, a path or an open one: the bytes that `savefig` writes, which
    draws every figure twice, the first time for its layout alone.
    """
    figure.set_dpi(dpi)
    FigureCanvasAgg(figure).print_png(file)
