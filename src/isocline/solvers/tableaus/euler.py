"""Euler's method."""

from ..tableau import Tableau

EULER = Tableau(
    name="Euler",
    order=1,
    reference="L. Euler, Institutionum calculi integralis, vol. 1 (1768), section 650",
    a=((),),
    b=(1,),
    c=(0,),
    interpolant=((1,),),
    dense_order=1,
)
