//! What an image of regions says of them: section `RGNS`.

use std::fmt;

use bincode::{Decode, Encode};

use super::element::{Element, Kind};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Reader, Tag};

/// The regions of one rank's image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Catalog {
    /// Whose image it is, from 0.
    pub(crate) rank: u32,
    /// Of how many.
    pub(crate) ranks: u32,
    /// In the order in which they were added: the n-th is the page index' "memory" n.
    pub(crate) regions: Vec<Region>,
}

/// A named array.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub kind: Kind,
    /// Bytes of an element.
    pub size: u32,
    /// Elements along each dimension, the slowest first.
    pub shape: Vec<u64>,
}

impl Catalog {
    /// That of an image.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`]: it is that of a whole job.
    pub(crate) fn of(image: &Reader) -> Result<Self> {
        image.section(Tag::RGNS)?.ok_or_else(|| {
            let what = format!("{} holds a whole job, no regions", image.path().display());
            Error::new(ErrorKind::Unsupported, what).help("restore it with ckpt-restore")
        })
    }

    /// The region of this name, and which one it is.
    pub(crate) fn find(&self, name: &str) -> Option<(u32, &Region)> {
        (0u32..).zip(&self.regions).find(|(_, region)| region.name == name)
    }
}

/// The regions of an image, in the order in which they were added; `None` of a whole job's.
///
/// # Errors
///
/// [`ErrorKind::Damaged`] if they cannot be made out.
pub fn of_image(image: &Reader) -> Result<Option<Vec<Region>>> {
    let catalog: Option<Catalog> = image.section(Tag::RGNS)?;
    Ok(catalog.map(|catalog| catalog.regions))
}

impl Region {
    /// One for elements of this type.
    pub(crate) fn new<T: Element>(name: &str, shape: &[u64]) -> Self {
        let (name, shape) = (name.to_owned(), shape.to_vec());
        Self { name, kind: T::KIND, size: size_of::<T>() as u32, shape }
    }

    /// Elements in all; `None` beyond all numbers.
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |sum, &length| sum.checked_mul(length))
    }

    /// Bytes in all; `None` beyond all numbers.
    pub fn bytes(&self) -> Option<u64> {
        self.elements()?.checked_mul(self.size.into())
    }

    /// Refuses another number of bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`].
    pub(crate) fn must_have(&self, bytes: usize) -> Result<()> {
        if self.bytes() == Some(bytes as u64) {
            return Ok(());
        }
        let what = format!("{self}: that is not what {bytes} bytes are");
        Err(Error::new(ErrorKind::Usage, what))
    }

    /// Whether elements of the type are what it has.
    pub(crate) fn is_of<T: Element>(&self) -> bool {
        (self.kind, self.size as usize) == (T::KIND, size_of::<T>())
    }
}

/// `field: 100 × 200 floats of 8 bytes`.
impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape: Vec<String> = self.shape.iter().map(u64::to_string).collect();
        let kind = match self.kind {
            Kind::Bytes => "pieces",
            Kind::Signed => "signed integers",
            Kind::Unsigned => "unsigned integers",
            Kind::Float => "floats",
        };
        write!(f, "{}: {} {kind} of {} bytes", self.name, shape.join(" × "), self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_in_words() {
        let region = Region::new::<f64>("field", &[100, 200]);
        assert_eq!(region.to_string(), "field: 100 × 200 floats of 8 bytes");
        assert_eq!((region.elements(), region.bytes()), (Some(20_000), Some(160_000)));
        assert!(region.is_of::<f64>() && !region.is_of::<i64>() && !region.is_of::<f32>());
        assert_eq!(Region::new::<u8>("x", &[u64::MAX, 2]).bytes(), None);
    }
}
