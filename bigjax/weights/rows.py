"""Rows of the layers of torch, by the path of ours and the name of theirs: one call is one layer."""
from bigjax.weights.family import Row

COUNTERS = r'(.*\.)?num_batches_tracked'  # how many batches torch's batch norms have seen; for `Family.ignored`


def dense(ours: str, theirs: str, transform: str = 'transpose', bias: bool = True, beside: str = '') -> tuple[Row, ...]:
    """The arrays of a linear layer."""
    kernel = Row(f'{ours}/kernel', f'{theirs}.weight', transform, beside=beside)
    return (kernel, Row(f'{ours}/bias', f'{theirs}.bias', beside=beside)) if bias else (kernel,)


def conv(ours: str, theirs: str, bias: bool = False, beside: str = '') -> tuple[Row, ...]:
    """The arrays of a convolution."""
    return dense(ours, theirs, 'conv', bias, beside)


def norm(ours: str, theirs: str, beside: str = '') -> tuple[Row, ...]:
    """The two arrays of a layer norm or a group norm."""
    return (Row(f'{ours}/scale', f'{theirs}.weight', beside=beside), Row(f'{ours}/bias', f'{theirs}.bias', beside=beside))


def batch_norm(ours: str, theirs: str, beside: str = '') -> tuple[Row, ...]:
    """The two parameters and the two statistics of a batch norm."""
    return (*norm(ours, theirs, beside), Row(f'batch_stats/{ours}/mean', f'{theirs}.running_mean', beside=beside),
            Row(f'batch_stats/{ours}/var', f'{theirs}.running_var', beside=beside))
