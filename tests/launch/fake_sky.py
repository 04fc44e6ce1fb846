"""A sky for tests: notes how it is called, and plays the answers of a folder (FAKE).

    calls.jsonl   {'argv': […], 'TOKEN': of its environment} of each call
    queue.json    the output of `sky jobs queue` at the first call, the second …; the last one stays
    log.txt       what `sky jobs logs` writes
    launch.rc     the exit code of `sky jobs launch`, and its stderr
"""
import json
import os
import pathlib
import sys

HERE, ARGV = pathlib.Path(os.environ['FAKE']), sys.argv[1:]


def main():
    with (HERE / 'calls.jsonl').open('a') as file:
        keep = ('TOKEN', 'SKYPILOT_DISABLE_USAGE_COLLECTION')
        file.write(json.dumps({'argv': ARGV, **{name: os.environ.get(name) for name in keep}}) + '\n')
    if ARGV[:2] == ['jobs', 'queue']:
        counter = HERE / 'count'
        number = int(counter.read_text()) if counter.exists() else 0
        counter.write_text(str(number + 1))
        looks = json.loads((HERE / 'queue.json').read_text())
        print('Fetching managed jobs...\n' + json.dumps(looks[min(number, len(looks) - 1)], indent=2))
    elif ARGV[:2] == ['jobs', 'logs']:
        sys.stdout.write((HERE / 'log.txt').read_text())
    elif ARGV[:2] == ['jobs', 'launch'] and (HERE / 'launch.rc').exists():
        code, words = (HERE / 'launch.rc').read_text().split(' ', 1)
        sys.stderr.write(words)
        return int(code)
    return 0


if __name__ == '__main__':
    sys.exit(main())
