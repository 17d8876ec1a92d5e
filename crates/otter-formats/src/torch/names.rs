//! The names that PyTorch pickles use for what they hold. A reader knows these and no others.

use crate::dtype::StoredDType;

/// The names a pickle may refer to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Global {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    Storage(StoredDType),
}

/// PyTorch's storage classes and what they hold.
const STORAGES: [(&str, StoredDType); 10] = [
    ("FloatStorage", StoredDType::F32),
    ("HalfStorage", StoredDType::F16),
    ("BFloat16Storage", StoredDType::Bf16),
    ("DoubleStorage", StoredDType::F64),
    ("LongStorage", StoredDType::I64),
    ("IntStorage", StoredDType::I32),
    ("ShortStorage", StoredDType::I16),
    ("CharStorage", StoredDType::I8),
    ("ByteStorage", StoredDType::U8),
    ("BoolStorage", StoredDType::Bool),
];

/// The storage class in `torch` that holds elements of this type.
pub(crate) fn storage_name(dtype: StoredDType) -> &'static str {
    STORAGES.iter().find(|(_, held)| *held == dtype).map_or("UntypedStorage", |(name, _)| name)
}

impl Global {
    /// What a pickle means by this name; `None` for everything that is not allowed.
    pub(crate) fn named(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            // The first version has the same four arguments and no more.
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch", name) => {
                STORAGES.iter().find(|(class, _)| *class == name).map(|&(_, dtype)| Self::Storage(dtype))
            }
            _ => None,
        }
    }
}
