//! What a table holds: the element types, and slices of them that pass through object-safe interfaces.

use bytemuck::Pod;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A table's element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Type {
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// 32-bit unsigned integer; adds wrap.
    U32,
    /// 32-bit signed integer; adds wrap.
    I32,
}

impl Type {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Type::F64 => 8,
            _ => 4,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::F32 => "f32",
            Type::F64 => "f64",
            Type::U32 => "u32",
            Type::I32 => "i32",
        })
    }
}

/// A Rust type that a table can hold.
pub trait Element: Pod + Default + PartialOrd + Send + Sync + fmt::Debug + 'static {
    /// Its name on the wire.
    const TYPE: Type;
    /// `self + other`, wrapping for integers.
    fn plus(self, other: Self) -> Self;
    /// The value as f64.
    fn to_f64(self) -> f64;
    /// The nearest value to `x`.
    fn from_f64(x: f64) -> Self;
    /// The slice with its type as a value.
    fn wrap(slice: &[Self]) -> Values<'_>;
    /// The mutable slice with its type as a value.
    fn wrap_mut(slice: &mut [Self]) -> ValuesMut<'_>;
    /// The vector with its type as a value.
    fn own(values: Vec<Self>) -> OwnedValues;
    /// The vector inside, or the values again if they are of another type.
    fn disown(values: OwnedValues) -> Result<Vec<Self>, OwnedValues>;
}

/// Borrowed elements of one of the four types.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub enum Values<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
    U32(&'a [u32]),
    I32(&'a [i32]),
}

/// Mutably borrowed elements of one of the four types.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum ValuesMut<'a> {
    F32(&'a mut [f32]),
    F64(&'a mut [f64]),
    U32(&'a mut [u32]),
    I32(&'a mut [i32]),
}

/// Elements of one of the four types.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum OwnedValues {
    F32(Vec<f32>),
    F64(Vec<f64>),
    U32(Vec<u32>),
    I32(Vec<i32>),
}

macro_rules! element {
    ($t:ty, $variant:ident, $plus:expr) => {
        impl Element for $t {
            const TYPE: Type = Type::$variant;
            #[inline]
            fn plus(self, other: Self) -> Self {
                let plus: fn($t, $t) -> $t = $plus;
                plus(self, other)
            }
            #[inline]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline]
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            #[inline]
            fn wrap(slice: &[Self]) -> Values<'_> {
                Values::$variant(slice)
            }
            #[inline]
            fn wrap_mut(slice: &mut [Self]) -> ValuesMut<'_> {
                ValuesMut::$variant(slice)
            }
            fn own(values: Vec<Self>) -> OwnedValues {
                OwnedValues::$variant(values)
            }
            fn disown(values: OwnedValues) -> Result<Vec<Self>, OwnedValues> {
                match values {
                    OwnedValues::$variant(values) => Ok(values),
                    other => Err(other),
                }
            }
        }
    };
}

element!(f32, F32, |a, b| a + b);
element!(f64, F64, |a, b| a + b);
element!(u32, U32, u32::wrapping_add);
element!(i32, I32, i32::wrapping_add);

/// Runs `$body` with `$slice` bound to the typed slice inside a [`Values`] or [`ValuesMut`].
#[macro_export]
macro_rules! with_values {
    ($enum:ident, $values:expr, $slice:ident => $body:expr) => {
        match $values {
            $crate::value::$enum::F32($slice) => $body,
            $crate::value::$enum::F64($slice) => $body,
            $crate::value::$enum::U32($slice) => $body,
            $crate::value::$enum::I32($slice) => $body,
        }
    };
}

impl OwnedValues {
    /// The elements, borrowed.
    pub fn borrow(&self) -> Values<'_> {
        with_values!(OwnedValues, self, v => Element::wrap(v))
    }

    /// `len` zeros.
    pub fn zeros(kind: Type, len: usize) -> Self {
        match kind {
            Type::F32 => OwnedValues::F32(vec![0.0; len]),
            Type::F64 => OwnedValues::F64(vec![0.0; len]),
            Type::U32 => OwnedValues::U32(vec![0; len]),
            Type::I32 => OwnedValues::I32(vec![0; len]),
        }
    }

    /// The elements, mutably borrowed.
    pub fn borrow_mut(&mut self) -> ValuesMut<'_> {
        with_values!(OwnedValues, self, v => Element::wrap_mut(v))
    }
}

impl From<Values<'_>> for OwnedValues {
    fn from(values: Values<'_>) -> Self {
        with_values!(Values, values, v => Element::own(v.to_vec()))
    }
}

impl<'a> Values<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        with_values!(Values, self, s => s.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    pub fn kind(&self) -> Type {
        match self {
            Values::F32(_) => Type::F32,
            Values::F64(_) => Type::F64,
            Values::U32(_) => Type::U32,
            Values::I32(_) => Type::I32,
        }
    }

    /// The bytes, in this machine's order (little-endian on every machine that flexps supports).
    pub fn bytes(&self) -> &'a [u8] {
        with_values!(Values, self, s => bytemuck::cast_slice(s))
    }
}

impl ValuesMut<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        with_values!(ValuesMut, self, s => s.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    pub fn kind(&self) -> Type {
        match self {
            ValuesMut::F32(_) => Type::F32,
            ValuesMut::F64(_) => Type::F64,
            ValuesMut::U32(_) => Type::U32,
            ValuesMut::I32(_) => Type::I32,
        }
    }

    /// The elements, to be read.
    pub fn borrow(&self) -> Values<'_> {
        with_values!(ValuesMut, self, s => Element::wrap(s))
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        with_values!(ValuesMut, self, s => bytemuck::cast_slice_mut(s))
    }
}
