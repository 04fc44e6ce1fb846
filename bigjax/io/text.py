"""Text for people: aligned tables, short numbers, sizes, durations, the nearest valid name, one line of an error."""
import difflib
from collections.abc import Iterable, Sequence

MAX_LETTERS = 300  # of foreign text shown in a message


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, with a rule under the head."""
    widths = [max(len(str(r[i])) for r in [head, *rows]) for i in range(len(head))]
    line = lambda cells: '  '.join(str(c).ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip()
    return '\n'.join([line(head), line(['─' * w for w in widths]), *map(line, rows)])


def short(value: float) -> str:
    """Four significant digits; thousands separated from 10,000 on."""
    return f'{value:.4g}' if abs(value) < 1e4 else f'{value:,.0f}'


def gib(bytes_: float | None) -> str:
    """Bytes in GiB, or MiB below a hundredth; '?' where they are not known."""
    if bytes_ is None:
        return '?'
    return f'{bytes_ / 2**30:.2f} GiB' if bytes_ >= 2**30 / 100 else f'{bytes_ / 2**20:.2f} MiB'


def clock(seconds: float) -> str:
    """Seconds as 3:07 or 1:02:09."""
    hours, rest = divmod(int(seconds), 3600)
    return (f'{hours}:{rest // 60:02d}' if hours else f'{rest // 60}') + f':{rest % 60:02d}'


def counted(number: int, thing: str) -> str:
    """'1 device', '2 devices'."""
    return f'{number:,} {thing}{"" if number == 1 else "s"}'


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.5) -> str:
    """The other valid name that is most like `name` in any case of letters, or whose part after the last dot is, or ''."""
    known = {str(choice).lower(): choice for choice in valid if str(choice) != str(name)}
    name = str(name).lower()
    tails = {key.rsplit('.', 1)[-1]: choice for key, choice in known.items()}
    for names, wanted, least in ((known, name, cutoff), (tails, name.rsplit('.', 1)[-1], max(cutoff, 0.6))):
        if close := difflib.get_close_matches(wanted, names, 1, least):
            return names[close[0]]
    return ''


def hint(name: str, valid: Iterable[str], cutoff: float = 0.5) -> str:
    """'; the nearest is …', or ''."""
    found = nearest(name, valid, cutoff)
    return f'; the nearest is {found}' if found else ''


def printable(text) -> str:
    """Foreign text, safe in one line of a message: at most `MAX_LETTERS`, and no control characters."""
    text = str(text)
    text = text if len(text) <= MAX_LETTERS else f'{text[:MAX_LETTERS]}…'
    return text if text.isprintable() else ascii(text)[1:-1]


def first_line(error: Exception) -> str:
    """The first line of an exception's message, at most 120 letters."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0][:120])
