"""What tests of recurrences do: everything by plain Python loops over tokens and channels, in float64."""

import math


def sigmoid(e):
    return 1 / (1 + math.exp(-e))


def silu(e):
    return e * sigmoid(e)


def gelu(e):
    return e * (1 + math.erf(e / math.sqrt(2))) / 2


def softplus(e):
    return math.log1p(math.exp(e))


def causal_filter(signal, kernels, biases, dilation=1):
    """Depthwise: signal is a list of vectors, kernels[c] the taps of a channel, that at the token itself last."""
    out = []
    for t in range(len(signal)):
        row = []
        for c, kernel in enumerate(kernels):
            total = biases[c] if biases else 0.0
            for back, tap in enumerate(reversed(kernel)):
                if t - back * dilation >= 0:
                    total += tap * signal[t - back * dilation][c]
            row.append(total)
        out.append(row)
    return out


def taps(conv):
    """(kernels, biases) of a depthwise convolution as lists."""
    return conv.weight[:, 0].tolist(), None if conv.bias is None else conv.bias.tolist()
