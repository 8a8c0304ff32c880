//! Parts of typed slices whose type is known at run time alone.

use flexps_common::error::{Error, Result};
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

/// Copies `from` over all of `to`. An error of ours when types or lengths differ.
pub fn copy(from: Values<'_>, to: ValuesMut<'_>) -> Result<()> {
    match (from, to) {
        (Values::F32(from), ValuesMut::F32(to)) if from.len() == to.len() => to.copy_from_slice(from),
        (Values::F64(from), ValuesMut::F64(to)) if from.len() == to.len() => to.copy_from_slice(from),
        (Values::U32(from), ValuesMut::U32(to)) if from.len() == to.len() => to.copy_from_slice(from),
        (Values::I32(from), ValuesMut::I32(to)) if from.len() == to.len() => to.copy_from_slice(from),
        (from, to) => {
            let (found, asked) = (from.kind(), to.kind());
            return Err(Error::bug(format!("{} values of {found:?} for {} of {asked:?}", from.len(), to.len())));
        }
    }
    Ok(())
}
