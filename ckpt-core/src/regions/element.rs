//! What arrays may be made of.

use bincode::{Decode, Encode};

/// The kind of an array's elements, as it stands in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Kind {
    /// Bytes of which nothing else is known; also structures of the program's own.
    Bytes,
    /// Signed integers, little-endian.
    Signed,
    /// Unsigned integers, little-endian.
    Unsigned,
    /// IEEE 754 floating point numbers, little-endian.
    Float,
}

/// A type whose arrays can be saved: plain data without padding or pointers, of which every bit pattern is
/// a value ([`bytemuck::Pod`]). Integers and floats are; for a structure of your own derive `Pod` and
/// add `impl Element for Mine {}`.
///
/// ```
/// use ckpt_core::regions::{Element, Kind};
///
/// assert_eq!((f64::KIND, std::mem::size_of::<f64>()), (Kind::Float, 8));
/// ```
///
/// What has pointers in it does not compile:
///
/// ```compile_fail
/// # use ckpt_core::regions::{Options, Store};
/// let mut store = Store::open("checkpoints", "mine", Options::default())?;
/// store.begin(1)?.add("names", &[String::from("a")])?;
/// # Ok::<(), ckpt_core::Error>(())
/// ```
pub trait Element: bytemuck::Pod {
    /// Its kind; the size goes along.
    const KIND: Kind = Kind::Bytes;
}

macro_rules! elements {
    ($($kind:ident: $($element:ty)*;)*) => {$($(
        impl Element for $element {
            const KIND: Kind = Kind::$kind;
        }
    )*)*};
}

elements! {
    Signed: i8 i16 i32 i64 i128 isize;
    Unsigned: u8 u16 u32 u64 u128 usize;
    Float: f32 f64;
}

impl<T: Element, const N: usize> Element for [T; N]
where
    Self: bytemuck::Pod,
{
    const KIND: Kind = T::KIND;
}
