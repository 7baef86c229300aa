"""A page as its HTML describes it."""

import html.parser


class Page(html.parser.HTMLParser):
    """elements: list of (name, dict of attributes); texts: the text of each element that holds
    text, in order. Raises AssertionError for elements that are not closed in order.
    """

    VOID = ("meta", "img", "source")

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in self.VOID:
            self._open.append(name)

    def handle_endtag(self, name):
        assert self._open.pop() == name

    def handle_data(self, data):
        if data.strip() and self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return "\n".join(self.texts)

    def all(self, name):
        """The attributes of all elements of this name."""
        return [attributes for element, attributes in self.elements if element == name]

    def after(self, text, count):
        """The texts that follow this one."""
        place = self.texts.index(text)
        return self.texts[place + 1 : place + 1 + count]
