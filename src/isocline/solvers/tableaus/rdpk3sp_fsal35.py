"""A method of order 3 in three registers, made for flow fields: RDPK3SpFSAL35.

Its region of stability is stretched along the spectra of spectral-element discretisations of
compressible flow, convection with a little dissipation, so that steps there can be longer than
those of a method made for accuracy alone. Evaluated in its own form it needs three registers; here
each stage has storage of its own, as in every method, for the interpolant and the gradient want it.
"""

from fractions import Fraction

from ..tableau import Matrix, Row, Tableau, difference, hermite, matrix

# gamma_1, gamma_2, beta and delta of each stage, as the source prints them. Its gamma_3, the weight
# of y, follows: all weights of states sum to 1.
_REGISTERS = matrix("""
0 1 0.2300298624518076223899418286314123354 1;
0.2587771979725733308135192812685323706 0.5528354909301389892439698870483746541
0.3021434166948288809034402119555380003 0.3407655879334525365094815965895763636;
-0.1324380360140723382965420909764953437 0.67318716082030618248495617827946436
0.8025606185416310937583009085873554681 0.3414382655003386206551709871126405331;
0.05056033948190826045833606441415585735 0.2803103963297672407841316576323901761
0.4362158943603440930655148245148766471 0.7229275366787987419692007421895451953;
0.567053200073931381263319715860764299 0.5521525447020610386070346724931300367
0.112927253045505912978211166259443658 0;
""")

(_C,) = matrix("""
0 0.2300298624518076223899418286314123354 0.4050046072094990912268498160116125481
0.8947822893693433545220710894560512805 0.7235136928826589010272834603680114769 1;
""")

(_B_HAT,) = matrix("""
0.09484166705035703392326247283838082847 0.172637133943035376696676262917667607
0.399824318908437102448316969861845577 0.1718016807580178450618829007973835152
0.05881914422155740300718268359027168467 0.1020760551185952388626787099944507877;
""")


def butcher(registers: Matrix) -> Matrix:
    """Rows of a, the last of them b, of a method in the form 3S*.

    With S1 = S3 = y and S2 = 0, each stage is S2 += delta S1 and then, with k = f(S1),
    S1 = gamma_1 S1 + gamma_2 S2 + gamma_3 S3 + beta h k. The registers are multiples of y plus h
    times sums of slopes, and the weights of the slopes are followed here.
    """
    first: list[Fraction] = []  # of S1, slope by slope
    second: list[Fraction] = []  # of S2
    rows: list[Row] = [()]
    for gamma1, gamma2, beta, delta in registers:
        second = [x + delta * y for x, y in zip(second, first, strict=True)]
        first = [gamma1 * x + gamma2 * y for x, y in zip(first, second, strict=True)]
        first, second = [*first, Fraction(beta)], [*second, Fraction(0)]
        rows.append(tuple(first))
    return tuple(rows)


_A = butcher(_REGISTERS)
_B = (*_A[-1], 0)

RDPK3SP_FSAL35 = Tableau(
    name="RDPK3SpFSAL35",
    order=3,
    reference=(
        "H. Ranocha, L. Dalcin, M. Parsani and D. I. Ketcheson, Optimized Runge-Kutta Methods with "
        "Automatic Step Size Control for Compressible Computational Fluid Dynamics, Commun. Appl. "
        "Math. Comput. 4 (2022), 1191-1228; as in OrdinaryDiffEq.jl, low_storage_rk_caches.jl"
    ),
    a=_A,
    b=_B,
    c=_C,
    # Twice the distance to the published companion: with that itself, solutions miss by up to 43
    # times the tolerance.
    error=(tuple(2 * x for x in difference(_B, _B_HAT)),),
    error_order=2,
    interpolant=hermite(_B),
    dense_order=3,
    digits=36,
)
