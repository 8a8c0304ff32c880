//! Parts of typed slices whose type is known at run time alone.

use flexps_common::value::{Element, Values, ValuesMut};
use flexps_common::with_values;
use std::ops::Range;

/// The values at `places`.
pub fn part<'a>(values: Values<'a>, places: Range<usize>) -> Values<'a> {
    with_values!(Values, values, s => Element::wrap(&s[places]))
}

/// The values at `places`, to be written.
pub fn part_mut<'a>(values: &'a mut ValuesMut<'_>, places: Range<usize>) -> ValuesMut<'a> {
    with_values!(ValuesMut, values, s => Element::wrap_mut(&mut s[places]))
}
