"""Fixed text of the verification report: its style sheet, and how it was made."""

from __future__ import annotations

from montecarlo.margins import ASSURANCE

__all__ = ["INPUTS", "METHOD", "STYLE"]

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em; color: #222 }
h1 { margin-bottom: 0.2em } h2 { margin-top: 2em; border-bottom: 1px solid #ccc }
img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: 13px; margin: 0.6em 0 }
th, td { padding: 0.15em 0.7em; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap }
th { background: #f4f4f4 } .text, .words { text-align: left } .text { white-space: normal; min-width: 9em }
details { margin: 0.6em 0; overflow-x: auto } summary { cursor: pointer; color: #555; font-size: 13px }
.count { display: inline-block; padding: 0.3em 0.9em; margin-right: 0.6em; background: #eee }
.CONFIRMED { color: #0072B2 } .REJECTED { color: #D55E00; font-weight: bold }
.INCONCLUSIVE { color: #777; font-weight: bold }
a { color: inherit; text-decoration-color: #bbb }
code { background: #f4f4f4; padding: 0.1em 0.3em }
figure { margin: 0.8em 0 } figcaption { color: #555; font-size: 13px }
"""

METHOD = (
    "A finite network's mean is a + b/n at width n, plus higher orders; a gradient through pools of rank "
    "3 (GN(4)) has n^(-1/2) as well. For each quantity and layer the means at several widths are fitted "
    "by weighted least squares; the intercept a is compared with the prediction. The interval includes "
    "what does not average out: the prediction's stated numerical error, rounding in single precision, "
    "and the next term of the expansion. CONFIRMED: the whole interval lies inside the margin; the "
    "flag 'deviation' marks a difference that is not zero all the same. REJECTED: zero is excluded "
    "(Holm's procedure) and the interval is not inside the margin: of an error that the margin would "
    "allow this says that more networks are needed to see that it does. INCONCLUSIVE: neither, or the "
    "widths do not follow the expansion ('curvature'). "
    "The number of networks follows from the standard deviations of a pilot alone (Stein's two "
    "stages): only these enter the standard error, so that the choice does not change the error rate. "
    f"The plan is to confirm an exact prediction with probability {ASSURANCE:g}, test by test. "
    "`normcompass calibrate` measures false alarms and power at family-wise errors down to 0.001 over six "
    "tests, 0.0002 each; the level of a single test here is lower still, where the same formulas are "
    "trusted."
)

INPUTS = (
    "synthetic: an exchangeable batch of 8 samples (16 for VN and EvoNorm-B0, whose gradients have a "
    "variance only from 10 on) with correlation 0.3. digits: 16 handwritten digits from scikit-learn, "
    "scaled to a mean second moment of 1, with their full covariance. A normalized row of weights "
    "sees its fan-in, and 64 pixels are far from the limit that the theory describes; WN and SWS are "
    "therefore given the digits' Gram matrix and feature means, which the simulation realizes "
    "exactly at an input dimension equal to the width. All other cases see the pixels themselves. "
    "ring, torus: 4 samples on a ring of 16 positions and on 8 x 8 positions, correlations 0.3 of "
    "samples and 0.5 of positions, with circular convolutions of kernel 3. "
    "images: 4 digits of 4 x 4 pixels (means over 2 x 2), with zero and with circular padding of kernel 3. "
    "residual: residual blocks behind a linear map that makes their input Gaussian, 8 samples with "
    "correlation 0.3 (16 for VN and EvoNorm-B0); over positions 4 samples on 16, correlations 0.1 and 0.2. "
    "Layers are blocks, and gradients those at the streams."
)
