//! The beginning of a GGUF file, versions 2 and 3: metadata, then what each tensor is called, its shape and type,
//! and where its bytes lie. Nothing is copied; every count is checked against the bytes that are there.

use crate::dtype::StoredDType;
use crate::stored_tensor::checked_elements;
use crate::torch::{checked_name, printable};
use std::collections::HashSet;
use std::ops::Range;

/// First bytes of every file.
pub const MAGIC: [u8; 4] = *b"GGUF";
/// The format's own limit.
pub(super) const MOST_AXES: usize = 4;
/// Where a tensor may begin unless `general.alignment` says otherwise.
pub const DEFAULT_ALIGNMENT: usize = 32;
/// Metadata key of another alignment.
const ALIGNMENT: &str = "general.alignment";
const LARGEST_ALIGNMENT: usize = 1 << 16;
/// Entries of the metadata and tensors; the largest known files have a tenth of it.
const MOST: u64 = 1 << 16;
/// Lists within lists.
const DEEPEST: usize = 4;

/// GGML's type numbers.
const TYPES: [(u32, StoredDType); 18] = [
    (0, StoredDType::F32),
    (1, StoredDType::F16),
    (2, StoredDType::Q4_0),
    (3, StoredDType::Q4_1),
    (6, StoredDType::Q5_0),
    (7, StoredDType::Q5_1),
    (8, StoredDType::Q8_0),
    (10, StoredDType::Q2K),
    (11, StoredDType::Q3K),
    (12, StoredDType::Q4K),
    (13, StoredDType::Q5K),
    (14, StoredDType::Q6K),
    (24, StoredDType::I8),
    (25, StoredDType::I16),
    (26, StoredDType::I32),
    (27, StoredDType::I64),
    (28, StoredDType::F64),
    (30, StoredDType::Bf16),
];

/// Names of the types that are not read here.
const OTHER_TYPES: [(u32, &str); 23] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// GGML's number of a type that is stored in GGUF files.
pub(super) fn type_number(dtype: StoredDType) -> Option<u32> {
    TYPES.iter().find(|(_, known)| *known == dtype).map(|(number, _)| *number)
}

/// Numbers of the metadata types.
pub(super) mod kind {
    pub(in crate::gguf) const U8: u32 = 0;
    pub(in crate::gguf) const I8: u32 = 1;
    pub(in crate::gguf) const U16: u32 = 2;
    pub(in crate::gguf) const I16: u32 = 3;
    pub(in crate::gguf) const U32: u32 = 4;
    pub(in crate::gguf) const I32: u32 = 5;
    pub(in crate::gguf) const F32: u32 = 6;
    pub(in crate::gguf) const BOOL: u32 = 7;
    pub(in crate::gguf) const TEXT: u32 = 8;
    pub(in crate::gguf) const LIST: u32 = 9;
    pub(in crate::gguf) const U64: u32 = 10;
    pub(in crate::gguf) const I64: u32 = 11;
    pub(in crate::gguf) const F64: u32 = 12;
}

/// A value of the metadata.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meta<'a> {
    /// An integer of any width.
    Int(i128),
    /// A float of either width.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(&'a str),
    /// Items of one type.
    List(List<'a>),
}

/// Items that were walked over but not taken apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct List<'a> {
    item: u32,
    count: usize,
    bytes: &'a [u8],
}

impl<'a> List<'a> {
    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.count
    }

    /// The items one after another; lists within the list end it with an error.
    pub fn items(self) -> impl Iterator<Item = Result<Meta<'a>, String>> {
        let mut reader = Reader { bytes: self.bytes, at: 0 };
        (0..self.count).map(move |_| reader.value(self.item, DEEPEST))
    }
}

/// What the file says of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim<'a> {
    /// Its name.
    pub name: &'a str,
    /// Type of its elements.
    pub dtype: StoredDType,
    /// Row-major: the row length is last.
    pub shape: Vec<usize>,
    /// In the file.
    pub bytes: Range<usize>,
}

/// Everything before the tensors' bytes.
#[derive(Debug)]
pub struct Header<'a> {
    /// The whole file.
    pub bytes: &'a [u8],
    /// Keys and values, in the order of the file.
    pub metadata: Vec<(&'a str, Meta<'a>)>,
    /// What it says of each tensor, in the order of the file.
    pub tensors: Vec<Claim<'a>>,
}

impl<'a> Header<'a> {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Meta<'a>> {
        self.metadata.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }

    /// Parses and checks the beginning of a file.
    ///
    /// # Errors
    /// A sentence that says what was found and what was expected.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(4)? != MAGIC {
            return Err("does not begin with GGUF".to_owned());
        }
        match reader.u32()? {
            2 | 3 => {}
            version if version.swap_bytes() == 2 || version.swap_bytes() == 3 => {
                return Err("written on a big-endian machine, which is not supported".to_owned());
            }
            version => {
                let advice = if version == 1 { "; convert it with current GGML tools" } else { "" };
                return Err(format!("GGUF version {version}; versions 2 and 3 are supported{advice}"));
            }
        }
        let (tensors, entries) = (reader.u64()?, reader.u64()?);
        for (count, what) in [(tensors, "tensors"), (entries, "metadata entries")] {
            if count > MOST {
                return Err(format!("claims {count} {what}; at most {MOST} are accepted"));
            }
        }
        let metadata = reader.metadata(entries)?;
        let mut header = Self { bytes, metadata, tensors: Vec::new() };
        let alignment = header.alignment()?;
        let mut claims = Vec::new();
        let mut names = HashSet::new();
        for number in 0..tensors {
            let claim = reader.claim().map_err(|problem| format!("tensor {number}: {problem}"))?;
            if !names.insert(claim.0) {
                return Err(format!("the tensor name `{}` occurs twice", printable(claim.0)));
            }
            claims.push(claim);
        }
        let start = reader.at.next_multiple_of(alignment);
        for (name, dtype, shape, offset) in claims {
            let bad = |problem: String| format!("tensor `{}`: {problem}", printable(name));
            if !offset.is_multiple_of(alignment as u64) {
                return Err(bad(format!("offset {offset} is no multiple of the alignment {alignment}")));
            }
            let size = size(dtype, &shape).map_err(bad)?;
            let begin = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(start));
            let range = begin.and_then(|begin| Some(begin..begin.checked_add(size)?));
            let Some(range) = range.filter(|range| range.end <= bytes.len()) else {
                return Err(bad(format!(
                    "{size} bytes at offset {offset} are outside the {} that follow the header; the file is truncated",
                    bytes.len().saturating_sub(start)
                )));
            };
            header.tensors.push(Claim { name, dtype, shape, bytes: range });
        }
        header.check_overlap()?;
        Ok(header)
    }

    fn alignment(&self) -> Result<usize, String> {
        match self.get(ALIGNMENT) {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(Meta::Int(found)) => usize::try_from(found)
                .ok()
                .filter(|found| found.is_power_of_two() && *found <= LARGEST_ALIGNMENT)
                .ok_or_else(|| {
                    format!("{ALIGNMENT} is {found}; expected a power of two up to {LARGEST_ALIGNMENT}")
                }),
            Some(_) => Err(format!("{ALIGNMENT} is not a number")),
        }
    }

    fn check_overlap(&self) -> Result<(), String> {
        let mut order: Vec<&Claim<'_>> =
            self.tensors.iter().filter(|claim| !claim.bytes.is_empty()).collect();
        order.sort_by_key(|claim| claim.bytes.start);
        match order.windows(2).find(|pair| pair[0].bytes.end > pair[1].bytes.start) {
            Some(pair) => Err(format!(
                "tensors `{}` and `{}` overlap",
                printable(pair[0].name),
                printable(pair[1].name)
            )),
            None => Ok(()),
        }
    }
}

/// Bytes of a tensor.
pub(super) fn size(dtype: StoredDType, shape: &[usize]) -> Result<usize, String> {
    let elements = checked_elements(shape).ok_or_else(|| format!("shape {shape:?} overflows"))?;
    let (length, _) = dtype.block();
    if length > 1 && !shape.last().is_some_and(|row| row.is_multiple_of(length)) {
        return Err(format!("rows of shape {shape:?} are not whole blocks of {length} elements"));
    }
    dtype.bytes_of(elements).ok_or_else(|| format!("shape {shape:?} of {dtype} overflows"))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn metadata(&mut self, entries: u64) -> Result<Vec<(&'a str, Meta<'a>)>, String> {
        let mut metadata = Vec::new();
        let mut keys = HashSet::new();
        for number in 0..entries {
            let bad = |problem: String| format!("metadata entry {number}: {problem}");
            let key = self.text().and_then(checked_name).map_err(bad)?;
            let kind = self.u32().map_err(bad)?;
            let bad = |problem: String| format!("metadata `{}`: {problem}", printable(key));
            if !keys.insert(key) {
                return Err(bad("occurs twice".to_owned()));
            }
            metadata.push((key, self.value(kind, 0).map_err(bad)?));
        }
        Ok(metadata)
    }

    /// Name, type, shape, offset.
    fn claim(&mut self) -> Result<(&'a str, StoredDType, Vec<usize>, u64), String> {
        let name = self.text().and_then(checked_name)?;
        let axes = self.u32()? as usize;
        if axes > MOST_AXES {
            return Err(format!("`{}` has {axes} axes; at most {MOST_AXES} are accepted", printable(name)));
        }
        let mut shape = Vec::with_capacity(axes);
        for _ in 0..axes {
            let length = self.u64()?;
            shape.push(usize::try_from(length).map_err(|_| format!("an axis of length {length}"))?);
        }
        // The format counts axes from the fastest one.
        shape.reverse();
        let number = self.u32()?;
        let Some((_, dtype)) = TYPES.iter().find(|(known, _)| *known == number) else {
            let other = OTHER_TYPES.iter().find(|(known, _)| *known == number);
            let found = other
                .map_or_else(|| format!("the unknown type {number}"), |(_, name)| format!("the type {name}"));
            return Err(format!(
                "`{}` has {found} of GGML; supported are F32, F16, BF16, Q4_0 to Q8_0 and Q2_K to Q6_K. No command here \
                 changes it: take the same model in one of these types, e.g. Q4_K_M or Q8_0, or make it with llama.cpp's \
                 llama-quantize",
                printable(name)
            ));
        };
        Ok((name, *dtype, shape, self.u64()?))
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Meta<'a>, String> {
        Ok(match kind {
            kind::U8 => Meta::Int(self.take(1)?[0].into()),
            kind::I8 => Meta::Int((self.take(1)?[0] as i8).into()),
            kind::U16 => Meta::Int(u16::from_le_bytes(self.array()?).into()),
            kind::I16 => Meta::Int(i16::from_le_bytes(self.array()?).into()),
            kind::U32 => Meta::Int(self.u32()?.into()),
            kind::I32 => Meta::Int(i32::from_le_bytes(self.array()?).into()),
            kind::F32 => Meta::Float(decimal(f32::from_le_bytes(self.array()?))),
            kind::BOOL => match self.take(1)?[0] {
                0 => Meta::Bool(false),
                1 => Meta::Bool(true),
                other => return Err(format!("the byte {other} where true (1) or false (0) was expected")),
            },
            kind::TEXT => Meta::Text(self.text()?),
            kind::LIST => Meta::List(self.list(depth)?),
            kind::U64 => Meta::Int(self.u64()?.into()),
            kind::I64 => Meta::Int(i64::from_le_bytes(self.array()?).into()),
            kind::F64 => Meta::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("unknown type {other}")),
        })
    }

    fn list(&mut self, depth: usize) -> Result<List<'a>, String> {
        if depth >= DEEPEST {
            return Err(format!("lists nested deeper than {DEEPEST}"));
        }
        let item = self.u32()?;
        let claimed = self.u64()?;
        let left = self.bytes.len() - self.at;
        let count = usize::try_from(claimed).ok().filter(|&count| count <= left);
        let count =
            count.ok_or_else(|| format!("a list of {claimed} items, but only {left} bytes are left"))?;
        let start = self.at;
        for _ in 0..count {
            match item {
                kind::TEXT => drop(self.raw_text()?),
                _ => drop(self.value(item, depth + 1)?),
            }
        }
        Ok(List { item, count, bytes: &self.bytes[start..self.at] })
    }

    fn text(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.raw_text()?).map_err(|_| "a text is not UTF-8".to_owned())
    }

    fn raw_text(&mut self) -> Result<&'a [u8], String> {
        let claimed = self.u64()?;
        let length = usize::try_from(claimed).map_err(|_| format!("a text of {claimed} bytes"))?;
        self.take(length)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], String> {
        let mut array = [0; LENGTH];
        array.copy_from_slice(self.take(LENGTH)?);
        Ok(array)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..length).ok_or_else(|| {
            format!("truncated: {length} bytes expected at byte {}, {} left", self.at, rest.len())
        })?;
        self.at += length;
        Ok(taken)
    }
}

/// The shortest decimal of a 32-bit float: 1e-5 and not 9.99999974737875e-6.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
