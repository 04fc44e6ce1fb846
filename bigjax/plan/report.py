"""A plan as text: one mesh in full, several in one table, and the changes that would make it fit."""
from bigjax.io.text import gib, table

UNCALIBRATED = 'uncalibrated: rooflines of published peaks; no run on this chip has been recorded yet'


def number(x: float, unit: str = '') -> str:
    """1.234e12 -> '1.234 T'."""
    for prefix in ('', 'k', 'M', 'G', 'T', 'P'):
        if abs(x) < 1000:
            return f'{x:.4g} {prefix}{unit}'.rstrip()
        x /= 1000
    return f'{x:.4g} E{unit}'


def seconds(pair) -> str:
    """(low, high) in the unit that fits."""
    scale, unit = (1, 's') if pair[0] >= 1 else (1e3, 'ms') if pair[0] >= 1e-3 else (1e6, 'µs')
    return f'{pair[0] * scale:.3g}–{pair[1] * scale:.3g} {unit}'


def verdict(f: dict) -> str:
    """One line: it fits, it does not, or it is not known."""
    m = f['memory']
    has = f"{gib(m['need'])} of {gib(m['limit'])} usable HBM per chip" if m['limit'] else f"{gib(m['need'])} per device"
    if 'refused' in f:
        return f"DOES NOT FIT: the compiler refuses: {f['refused']}"
    if f['fits'] is None:
        return f'UNKNOWN whether it fits: the state alone takes {has}'
    room = f", headroom {m['headroom']:.0%}" if m['limit'] else ', no limit known'
    return f"{'FITS' if f['fits'] else 'DOES NOT FIT'}: {has}{room}"


def full(name: str, f: dict) -> str:
    """The whole plan of one mesh."""
    unit, a, members = f['unit'], f['accumulate'], f['population']
    lines = [
        f"{name} on {f['hardware']} · mesh {f['mesh']}",
        f"{f['parameters']:,} parameters{f' x {members} members' if members > 1 else ''} · batch "
        f"{f['batch_size']:,}{f' in {a} parts' if a > 1 else ''} = {f['batch_size'] * unit['per_example']:,} {unit['name']} "
        f"per step · {f['steps']:,} steps",
        verdict(f), *(f'note: {n}' for n in f.get('notes', ())), '', _memory(f), '', _flops(f)]
    if 'unknown' in f:
        lines += ['', f['unknown'], _least(f)]
    if 'collectives' in f:
        lines += ['', _sent(f)]
    lines += [f'warning: {w}' for w in f['warnings']]
    if f.get('time'):
        lines += ['', _time(f)]
    return '\n'.join(lines)


def _memory(f) -> str:
    m = f['memory']
    parts = [('parameters', 'parameters'), ('optimizer', 'optimizer'), ('batch', 'batch'), ('data', 'data kept there'),
             ('other_state', 'other state'), ('temporaries', 'temporaries'), ('code', 'code')]
    rows = [[label, gib(m[key])] for key, label in parts if m.get(key)]
    if m.get('peak'):
        rows += [["the compiler's peak", gib(m['peak'])], ['everything at once, no reuse', gib(m['upper'])]]
    buffers = [[gib(b['bytes']), b['what'], b['shape'][:44], _tail(b['place'])] for b in f['largest']]
    return f"{table(['bytes per chip', ''], rows)}\n\n{table(['largest', 'what', 'shape', 'where'], buffers)}"


def _tail(place: str, length: int = 70) -> str:
    """The end of a path, where its names are."""
    return place if len(place) <= length else '…' + place[-length:]


def _flops(f) -> str:
    p = f['flops']
    text = f"FLOPs per step: {number(p['model'])} of the model ({p['model'] / p['six_parameters']:.3f} x 6 x parameters x " \
           f"{'tokens' if f['unit']['name'] == 'tokens' else 'positions'})"
    if 'executed' in p:
        text += f", {number(p['executed'])} executed: {p['recomputed']:+.1%} recomputed or added"
    return text


def _least(f) -> str:
    rows = [['+'.join(t['axes']), number(t['bytes'], 'B'), t['why']] for t in f['textbook']]
    return table(['axis', "textbook's least per step and chip", 'why'], rows) if rows else 'nothing is sent'


def _sent(f) -> str:
    if not f['collectives']:
        return 'nothing is sent'
    rows = [[c['kind'], '+'.join(c['axes']), f"{c['executions']:,.0f}", number(c['payload'], 'B'), number(c['wire'], 'B'),
             f"{c['asynchronous'] / c['wire']:.0%}" if c['wire'] else '', _tail(c['place'], 48)] for c in f['collectives']]
    head = ['collective', 'axis', 'times', 'payload', 'wire per chip', 'async', 'most of it in']
    total = sum(c['wire'] for c in f['collectives'])
    least = sum(t['bytes'] for t in f['textbook'])
    return (f"{table(head, rows)}\nin all {number(total, 'B')} of wire per step and chip\n\n"
            f"{_least(f)}\nin all {number(least, 'B')}")


def _time(f) -> str:
    t, unit = f['time'], f['unit']['name']
    label = f"calibrated by a recorded run: {t['calibrated']:.2f} x the rooflines" if t['calibrated'] else UNCALIBRATED
    pair = lambda key, form: '–'.join(form(x) for x in sorted(t[key]))
    return '\n'.join([
        f"step {seconds(t['step'])} ({label})",
        f"  rooflines: compute {seconds([t['compute']] * 2).split('–')[1]} · HBM {seconds([t['hbm']] * 2).split('–')[1]} · "
        f"network {seconds(t['network'])}",
        f"  utilisation (MFU) at most {t['mfu'][0]:.0%}, {t['mfu'][1]:.0%} where nothing overlaps · "
        f"{pair('per_second', number)} {unit}/s · {pair('chip_hours', lambda x: f'{x:,.3g}')} chip-hours for "
        f"{f['steps']:,} steps"])


def several(plans: list[tuple[str, dict]]) -> str:
    """A table with one row per mesh."""
    rows = []
    for name, f in plans:
        if 'error' in f:
            rows.append([name, f['mesh'], 'refused', f['error'], '', '', '', '', ''])
            continue
        wire, t = sum(c['wire'] for c in f.get('collectives', ())), f.get('time')
        fits = {True: 'fits', False: 'does not fit', None: 'unknown'}[f['fits']]
        rows.append([
            name, f['mesh'], fits, gib(f['memory']['need']), f"{f['memory'].get('headroom', 0):.0%}",
            number(wire, 'B') if 'collectives' in f else '?', number(sum(x['bytes'] for x in f['textbook']), 'B'),
            seconds(t['step']) if t else '?', f"{t['mfu'][0]:.0%}" if t else '?'])
    head = ['', 'mesh', '', 'bytes per chip', 'headroom', 'wire per chip', 'textbook', 'step', 'MFU at most']
    return table(head, rows) + (f'\n({UNCALIBRATED})' if any(f.get('time') for _, f in plans) else '')


def advice(tried: list[tuple[str, dict]]) -> str:
    """A table of the changes tried, with the result of each."""
    rows = []
    for change, f in tried:
        if 'error' in f:
            rows.append([change, 'cannot be done', f['error'], ''])
            continue
        t = f.get('time')
        fits = 'fits' if f['fits'] else 'does not fit'
        rows.append([change, fits, gib(f['memory']['need']), seconds(t['step']) if t else '?'])
    return table(['change', '', 'bytes per chip', 'step'], rows) if rows else 'no change was found: take more chips'
