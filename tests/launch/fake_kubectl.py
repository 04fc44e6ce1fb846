"""A kubectl for tests: notes how it is called, and plays the answers of a folder (FAKE).

    calls.jsonl      {'argv': […], 'stdin': '…'} of each call, in order
    cluster.json     the output of `get jobsets…,pods` at the first call, the second …; the last one stays
    POD.log          lines of a pod, with their times; POD.cut: how many of them the first connection gives
    answers.json     {'words of a command': [exit code, stdout, stderr]}
"""
import json
import os
import pathlib
import sys

HERE, ARGV = pathlib.Path(os.environ['FAKE']), sys.argv[1:]


def count(name):
    """How often this was called with that name before."""
    path = HERE / f'{name}.count'
    number = int(path.read_text()) if path.exists() else 0
    path.write_text(str(number + 1))
    return number


def main():
    stdin = sys.stdin.read() if '--filename=-' in ARGV else ''
    with (HERE / 'calls.jsonl').open('a') as file:
        file.write(json.dumps({'argv': ARGV, 'stdin': stdin}) + '\n')
    words = [word for word in ARGV if not word.startswith('-')]
    answers = json.loads((HERE / 'answers.json').read_text()) if (HERE / 'answers.json').exists() else {}
    for known, (code, out, err) in answers.items():
        if ' '.join(words).startswith(known):
            sys.stdout.write(out)
            sys.stderr.write(err)
            return code
    if words[0] == 'get' and words[1].endswith(',pods'):
        looks = json.loads((HERE / 'cluster.json').read_text())
        print(json.dumps({'kind': 'List', 'items': looks[min(count('cluster'), len(looks) - 1)]}))
    elif words[0] == 'logs':
        lines = (HERE / f'{words[1]}.log').read_text().splitlines(keepends=True)
        since = next((word.partition('=')[2] for word in ARGV if word.startswith('--since-time=')), '')
        lines = [line for line in lines if line.split()[0] >= since]
        cut = HERE / f'{words[1]}.cut'
        if cut.exists() and not count(words[1]):
            lines = lines[:int(cut.read_text())]
        sys.stdout.write(''.join(lines))
    elif words[0] == 'get':
        print('uid-1', end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
