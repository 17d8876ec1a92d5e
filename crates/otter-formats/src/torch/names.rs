//! The names that PyTorch pickles use for what they hold. A reader knows these and no others.

use crate::tensor::Dtype;

/// The names a pickle may refer to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Global {
    RebuildTensor,
    RebuildParameter,
    OrderedDict,
    Storage(Dtype),
}

/// PyTorch's storage classes and what they hold.
const STORAGES: [(&str, Dtype); 10] = [
    ("FloatStorage", Dtype::F32),
    ("HalfStorage", Dtype::F16),
    ("BFloat16Storage", Dtype::Bf16),
    ("DoubleStorage", Dtype::F64),
    ("LongStorage", Dtype::I64),
    ("IntStorage", Dtype::I32),
    ("ShortStorage", Dtype::I16),
    ("CharStorage", Dtype::I8),
    ("ByteStorage", Dtype::U8),
    ("BoolStorage", Dtype::Bool),
];

/// The storage class in `torch` that holds elements of this type.
pub(crate) fn storage_name(dtype: Dtype) -> &'static str {
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
