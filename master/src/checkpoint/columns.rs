//! Columns between a checkpoint and the slaves that have the rows: by the rows' numbers in their input, so that other slaves,
//! and other blocks, get them back.
//!
//! Invariant: a part is of consecutive rows of one block when it is written; when it is taken its rows may be in several.

use super::file::{ColumnHead, Part, Writer};
use super::shards::unexpected;
use crate::job::order::Piece;
use crate::transfer::{Flight, Shards, WINDOW};
use bytes::Bytes;
use flexps_common::ids::JobId;
use flexps_common::plan::ColumnSpec;
use flexps_common::wire::body::{BodyReader, BodyWriter};
use flexps_common::wire::checkpoint::{BlockRows, FromKept, ToKept};
use flexps_common::{Error, Result};
use std::sync::Arc;

/// Rows of a part at most.
const ROWS: u32 = 1 << 18;

/// A column that goes with checkpoints, and who has its rows now.
#[derive(Debug, Clone)]
pub struct Column {
    /// Which.
    pub spec: ColumnSpec,
    /// In order.
    pub pieces: Arc<[Piece]>,
}

impl Column {
    /// Rows of one of the pieces, on its slave.
    fn rows(&self, piece: &Piece, from: u32, count: u32) -> BlockRows {
        BlockRows { input: self.spec.input, block: piece.block, from, count, of: piece.rows }
    }
}

impl Shards {
    /// Writes all columns.
    pub(super) fn keep_columns(&self, writer: &mut Writer, columns: &[Column]) -> Result<()> {
        let mut write = |((column, first, rows), pending)| match self.told(pending)? {
            (FromKept::Column(Some(values)), body) => {
                writer.part(&Part::Column(ColumnHead { column, first, rows, values }), &body)
            }
            (FromKept::Column(None), _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        };
        let mut flight = Flight::of(WINDOW * self.bulk.len());
        for (number, column) in (0..).zip(columns) {
            for piece in &*column.pieces {
                for from in (0..piece.rows).step_by(ROWS as usize) {
                    let rows = column.rows(piece, from, ROWS.min(piece.rows - from));
                    let message = ToKept::GiveColumn { job: self.job, column: column.spec.name.clone(), rows };
                    let asked = self.ask(piece.shard, &message, Bytes::new())?;
                    let head = (number, piece.first + u64::from(from), rows.count);
                    flight.add((head, asked), &mut write)?;
                }
            }
        }
        flight.rest().try_for_each(write)
    }
}

/// What to tell which shard of a part of a column: the rows may be in several blocks now.
pub(super) fn to_take(
    job: JobId,
    columns: &[Column],
    head: &ColumnHead,
    body: &Bytes,
) -> Result<Vec<(u32, ToKept, Bytes)>> {
    let lacks = |what: &str| Error::bug(format!("a checkpoint with {what} that the job lacks"));
    let column = columns.get(head.column as usize).ok_or_else(|| lacks("a column"))?;
    let (element, each) = (head.values.element, head.values.width as usize);
    let mut reader = BodyReader::new(body.clone());
    let values = reader.values(element, head.rows as usize * each)?;
    reader.end()?;
    let (first, end) = (head.first, head.first + u64::from(head.rows));
    if column.pieces.last().is_none_or(|last| last.end() < end) {
        return Err(lacks("rows"));
    }
    let size = each * element.size();
    let begin = column.pieces.partition_point(|piece| piece.end() <= first);
    let pieces = column.pieces[begin..].iter().take_while(|piece| piece.first < end);
    let told = pieces.map(|piece| {
        let (from, behind) = (first.max(piece.first), end.min(piece.end()));
        let rows = column.rows(piece, (from - piece.first) as u32, (behind - from) as u32);
        let mut part = BodyWriter::default();
        part.bytes(&values.get().bytes()[(from - first) as usize * size..(behind - first) as usize * size]);
        let message = ToKept::TakeColumn { job, column: column.spec.name.clone(), rows, values: head.values };
        (piece.shard, message, part.finish())
    });
    Ok(told.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::ids::InputId;
    use flexps_common::value::{Type, Values};
    use flexps_common::wire::checkpoint::ColumnValues;

    fn column(rows: &[(u32, u32)]) -> Column {
        let mut first = 0;
        let pieces = (0..).zip(rows).map(|(block, (shard, rows))| {
            let piece = Piece { first, rows: *rows, shard: *shard, block };
            first = piece.end();
            piece
        });
        let spec = ColumnSpec { input: InputId(2), name: "dual".to_owned() };
        Column { spec, pieces: pieces.collect() }
    }

    /// Shard, block, first row, number of rows, values.
    type Told = (u32, u32, u32, u32, Vec<f32>);

    fn told(column: &Column, first: u64, values: &[f32], width: u32) -> Result<Vec<Told>> {
        let values_are = ColumnValues { element: Type::F32, width };
        let head = ColumnHead { column: 0, first, rows: values.len() as u32 / width, values: values_are };
        let mut body = BodyWriter::default();
        body.bytes(Values::F32(values).bytes());
        let told = to_take(JobId(1), std::slice::from_ref(column), &head, &body.finish())?;
        let mut found = Vec::new();
        for (shard, message, body) in told {
            let ToKept::TakeColumn { rows, values, .. } = message else { panic!("{message:?}") };
            assert_eq!((values, rows.input), (values_are, InputId(2)));
            assert_eq!(rows.of, column.pieces[rows.block as usize].rows);
            let mut reader = BodyReader::new(body);
            let part = reader.values(Type::F32, (rows.count * width) as usize)?;
            reader.end()?;
            found.push((shard, rows.block, rows.from, rows.count, part.typed::<f32>().unwrap_or_default().to_vec()));
        }
        Ok(found)
    }

    #[test]
    fn rows_that_lay_in_one_block_go_to_those_that_have_them_now() {
        let column = column(&[(0, 3), (1, 2), (0, 4)]);
        assert_eq!(told(&column, 0, &[1.0, 2.0, 3.0], 1).unwrap(), [(0, 0, 0, 3, vec![1.0, 2.0, 3.0])]);
        assert_eq!(
            told(&column, 2, &[1.0, 2.0, 3.0, 4.0, 5.0], 1).unwrap(),
            [(0, 0, 2, 1, vec![1.0]), (1, 1, 0, 2, vec![2.0, 3.0]), (0, 2, 0, 2, vec![4.0, 5.0])]
        );
        let two = [1.0, 1.5, 2.0, 2.5];
        assert_eq!(told(&column, 4, &two, 2).unwrap(), [(1, 1, 1, 1, vec![1.0, 1.5]), (0, 2, 0, 1, vec![2.0, 2.5])]);
        assert!(told(&column, 8, &[1.0, 2.0], 1).is_err(), "nine rows have no tenth");
        assert!(told(&self::column(&[]), 0, &[1.0], 1).is_err());
    }
}
