"""What a check says when it finds something wrong."""


class Failure(Exception):
    """What a check found wrong."""


def expect(what, expected, got):
    if expected != got:
        raise Failure("%s: expected %.300r, got %.300r" % (what, expected, got))
