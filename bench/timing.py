"""Calls that take turns and say themselves what they measured."""


def in_turn(calls, rounds):
    """dict name -> list of what calls[name]() returned in each round.

    All calls take turns, so that other load on the machine affects all alike.
    """
    found = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(call())
    return found
