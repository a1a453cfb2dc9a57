"""Sabotages that the tests of this folder notice; `make mutants` runs them, see tests/mutants.py."""

from tests.mutants import Mutant

MUTANTS = [
    # The drawing of an agent
    Mutant(
        "drawing: the score's gradient runs through C",
        "rl/drawing/describe.py",
        'edges += [Edge("score", "policy", "score")',
        'edges += [Edge("score", "critic", "score")',
        "rl/drawing/drawing",
    ),
    Mutant(
        "drawing: gradient-free agents are said to learn through C",
        "rl/drawing/describe.py",
        '        return "search"\n',
        '        return "pathwise"\n',
        "rl/drawing/drawing",
    ),
    Mutant(
        "drawing: counts weights and no biases",
        "rl/drawing/describe.py",
        "for parameter in module.parameters())",
        "for parameter in net.weights)",
        "rl/drawing/drawing",
    ),
    Mutant(
        "drawing: a caption lies on its neighbour",
        "rl/drawing/layout.py",
        '"advantage": (-0.15, -0.45, "right", "top")',
        '"advantage": (-0.15, 0.45, "right", "bottom")',
        "rl/drawing/drawing",
    ),
]
