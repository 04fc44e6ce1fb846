"""Lists the experiments, each with the first line of its script."""
import ast
import pathlib


def names() -> list[str]:
    """The experiments of this folder."""
    return sorted(p.stem for p in pathlib.Path(__file__).parent.glob('*.py') if not p.stem.startswith('_'))


def main() -> None:
    """Prints the list."""
    for name in names():
        text = (pathlib.Path(__file__).parent / f'{name}.py').read_text(encoding='utf-8')
        print(f"{name:18} {(ast.get_docstring(ast.parse(text)) or '').splitlines()[0]}")
    print('\npython -m experiments.NAME --help')


if __name__ == '__main__':
    main()
