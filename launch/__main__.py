"""The command line of the launcher.

    python -m launch run --on=local:4 --max_restarts=3 -- python -m experiments.mnist1d --workdir=/tmp/m1d
    python -m launch run --on=tpu_vm:v5e-16,zone=us-west4-a,spot --name=exp7 -- python -m experiments.vit_imagenet --workdir=…
    python -m launch status|logs|attach|kill|down [NAME]
    python -m launch sweep run|table …, rerun WORKDIR
    python -m launch doctor|render --on=slurm:nodes=2,gpus=8 [-- COMMAND]

exit 0 done · 2 the input is wrong · 3 a non-finite loss · 4 done, and the answer is no · 75 preempted, run it again ·
130 the job keeps running without this launcher · 1 anything else; these are an experiment's own codes, passed on
"""
import sys
from collections.abc import Sequence

from absl import flags

from bigjax.errors import UserError
from bigjax.io.text import hint, table
from launch import commands, outcome, target
from launch.engines import base
from launch.lines import log
from launch.steps import Failed


def main(argv: Sequence[str]) -> int:
    """Runs one command; returns its exit code."""
    try:
        options, words, command = _parse(argv)
        if options.help:
            print(_help(options))
            return outcome.DONE
        verb, *names = words or ['']
        example = f'fix: write for example {commands.EXAMPLE}'
        if verb not in VERBS:
            raise UserError(f"'{verb}': no such verb{hint(verb, VERBS)}; fix: write one of {', '.join(VERBS)}"
                            if verb else f'a verb is missing; {example}', code='launch/unknown-verb')
        return VERBS[verb](options, names, command)
    except UserError as error:
        log(str(error))
        return outcome.USER
    except Failed as error:
        log(str(error))
        return outcome.FAILED
    except KeyboardInterrupt:
        log('interrupted by Ctrl-C')
        return outcome.DETACHED


def _define() -> flags.FlagValues:
    """The launcher's flags, in a namespace of their own."""
    values = flags.FlagValues()
    flag = {'flag_values': values}
    flags.DEFINE_boolean('help', False, "show this; with --on=ENGINE also the engine's keys", short_name='h', **flag)
    flags.DEFINE_string('on', '', "the engine: 'local:4' is four processes on this machine; of a sweep, four runs at once",
                        **flag)
    flags.DEFINE_string('name', '', "the job's name; run: a new one, by default the experiment's and four digits", **flag)
    flags.DEFINE_list('env', [], 'names of variables whose values are passed to the processes: WANDB_API_KEY', **flag)
    flags.DEFINE_integer('max_restarts', 0, 'restarts after a failure', 0, **flag)
    flags.DEFINE_integer('max_preemptions', 100, 'restarts after a preemption (exit 75, a lost machine)', 0, **flag)
    flags.DEFINE_float('grace', 30.0, 'seconds between SIGTERM and SIGKILL', 0.0, **flag)
    flags.DEFINE_string('logs', '', 'a folder that keeps the output of each process, for example WORKDIR/logs', **flag)
    flags.DEFINE_boolean('dry_run', False, 'print a summary and the exact commands, and run nothing', **flag)
    flags.DEFINE_boolean('detach', False, 'run: return once the job has started', short_name='d', **flag)
    flags.DEFINE_boolean('follow', False, 'logs: continue until the job ends', short_name='f', **flag)
    flags.DEFINE_integer('worker', -1, 'logs: print one process only', -1, **flag)
    flags.DEFINE_boolean('yes', False, 'down: no confirmation', short_name='y', **flag)
    flags.DEFINE_string('to', '', "the output folder: of render's files, of sweep's page, of rerun's run", **flag)
    flags.DEFINE_multi_string('grid', [], 'sweep: KEY=VALUE,VALUE,… once per key to vary', **flag)
    flags.DEFINE_boolean('together', False, "sweep: train arms that differ only in seed and in the optimizer's numbers as one "
                         'population', **flag)
    flags.DEFINE_integer('jobs', 0, 'sweep: runs side by side; by default as many as --on has: local:2 runs two', 0, **flag)
    flags.DEFINE_alias('parallel', 'jobs', **flag)  # the name until version 0.2
    flags.DEFINE_string('metric', '', "sweep: the metric of the table, by default the paper's", **flag)
    flags.DEFINE_boolean('trust_patch', False, "rerun: run the source.patch of another user's run, or one that adds modules",
                         **flag)
    flags.DEFINE_integer('losses', 20, 'rerun: the number of training losses to compare; 0: all, to the end', 0, **flag)
    return values


def _parse(argv: Sequence[str]):
    """Returns (flags, the words before --, the command after it)."""
    argv = list(argv)
    at = argv.index('--') if '--' in argv else len(argv)
    values = _define()
    try:
        words = values(['launch', *argv[:at]])[1:]
    except flags.Error as error:
        raise UserError(f'{str(error).splitlines()[0]}; fix: see --help', code='launch/bad-flag') from None
    if len(words) > (3 if words[:1] == ['sweep'] else 2):
        raise UserError(f"'{words[2]}': the command to run comes after --; fix: write for example {commands.EXAMPLE}",
                        code='launch/usage')
    return values, words, argv[at + 1:]


def _help(values) -> str:
    rows = [(f'--{name}', values[name].help) for name in sorted({values[flag].name for flag in values} - {'parallel'})]
    parts = [__doc__.strip(), f"verbs: {', '.join(VERBS)}; engines: {', '.join(base.ENGINES)}",
             table(('flag', 'meaning'), rows)]
    if kind := values.on.partition(':')[0]:
        parts.append(table((f'--on={kind}:KEY=VALUE,…', 'meaning'), target.describe(base.module(kind).Target)))
    return '\n\n'.join(parts)


def _sweep(options, names: Sequence[str], command: Sequence[str]) -> int:
    from launch import sweep  # imports JAX, which takes seconds and which the other verbs do not need
    return sweep.verb(options, names, command)


def _rerun(options, names: Sequence[str], command: Sequence[str]) -> int:
    from launch import rerun
    return rerun.verb(options, names, command)


VERBS = {**commands.VERBS, 'sweep': _sweep, 'rerun': _rerun}

if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
