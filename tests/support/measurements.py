"""The measurements of an analysis."""


def measured_of(measurements, sample, selector, parameter=None):
    """The only measurement of a selector on a sample at a parameter."""
    (only,) = (
        each
        for each in measurements
        if (each.sample, each.selector, each.parameter) == (sample.name, selector, parameter)
    )
    return only
