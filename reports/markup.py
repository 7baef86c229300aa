"""HTML from text. All text is escaped unless it is Html, which only this module makes of text."""

import html

VOID = {"img", "meta", "source"}  # elements without an end
NONE = "–"  # stands for a value that is not known


class Html(str):
    """Text that is HTML already."""


def escaped(content):
    """The Html of a text, of Html, or of a list of both."""
    if isinstance(content, Html):
        return content
    if isinstance(content, (list, tuple)):
        return Html("".join(map(escaped, content)))
    return Html(html.escape(str(content)))


def tag(element, content="", /, **attributes):
    """The `element` around `content`, as Html.

    Attributes that are None are left out. Their names may end in _, because Python reserves some,
    and every other _ stands for -.
    """
    words = [element]
    for key, value in attributes.items():
        if value is not None:
            key = key.rstrip("_").replace("_", "-")
            words.append(f'{key}="{html.escape(str(value))}"')
    start = f"<{' '.join(words)}>"
    return Html(start if element in VOID else f"{start}{escaped(content)}</{element}>")


def table(head, rows, label, text_columns=1):
    """A table in a box that scrolls sideways where the page is narrower than the table.

    Args:
        head: the cells of its head.
        rows: lists of cells, text or Html; None is a value that is not known.
        label: what it shows, for screen readers.
        text_columns: the number of columns at the left that hold text; the others hold numbers.
    """
    column = lambda i: None if i < text_columns else "number"
    cells = [tag("th", cell, scope="col", class_=column(i)) for i, cell in enumerate(head)]
    lines = [tag("thead", tag("tr", cells))]
    body = []
    for row in rows:
        cells = [NONE if cell is None else cell for cell in row]
        first = tag("th", cells[0], scope="row")
        body.append(
            tag(
                "tr",
                [first, *(tag("td", c, class_=column(i + 1)) for i, c in enumerate(cells[1:]))],
            )
        )
    lines.append(tag("tbody", body))
    return tag(
        "div", tag("table", lines), class_="scroll", role="region", aria_label=label, tabindex=0
    )


def details(summary, content):
    """Content that is hidden until the reader asks for it."""
    return tag("details", [tag("summary", summary), content])


def figure(picture, caption):
    """A reports.pictures.Picture with its caption; "" for None."""
    if picture is None:
        return Html()
    size = dict(width=picture.width, height=picture.height)
    dark = tag("source", media="(prefers-color-scheme: dark)", srcset=picture.dark, **size)
    light = tag("img", src=picture.light, alt=picture.alt, **size)
    return tag("figure", [tag("picture", [dark, light]), tag("figcaption", caption)])


def charts(figures, kind="charts"):
    """Figures beside each other, or below each other on a narrow page. kind: classes of CSS."""
    return tag("div", figures, class_=kind) if any(figures) else Html()


def section(title, *content):
    return tag("section", [tag("h3", title), *content])
