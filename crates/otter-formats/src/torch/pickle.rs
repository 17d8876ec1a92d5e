//! A reader for the pickles that PyTorch writes around tensors. It executes nothing: the only callables
//! are the four below, all of them data constructors, and any other name is an error.
//!
//! Objects live in one list and refer to each other by index, so nesting costs no call stack and a
//! value that refers to itself cannot loop the reader.

use super::names::Global;
use crate::dtype::StoredDType;
use crate::stored_tensor::LARGEST_RANK;
use std::collections::HashMap;

/// Longest pickle accepted. That of a model with two thousand tensors has about 300 KB.
pub(crate) const LONGEST_PICKLE: usize = 32 << 20;
/// Most objects, stack values, marks and memo entries each.
const MOST_OBJECTS: usize = 1 << 20;
/// Most values that may be pushed in all, which bounds what the containers hold together.
const MOST_PUSHES: usize = 1 << 22;
/// Longest tensor name.
const LONGEST_NAME: usize = 1024;

/// A pickled value. Containers are indices into [`Pickle::nodes`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(&'a str),
    Global(Global),
    Node(usize),
}

/// A container or a tensor.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Storage(StorageReference<'a>),
    Tensor(TensorReference<'a>),
}

/// A persistent id: which run of bytes, of what type, how many elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StorageReference<'a> {
    pub dtype: StoredDType,
    pub key: &'a str,
    pub elements: usize,
    /// The legacy form only: a part of the storage that tensors see as theirs.
    pub view: Option<View>,
}

/// Elements of a storage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct View {
    pub start: usize,
    pub end: usize,
}

/// A view of a storage, in elements.
#[derive(Debug, Clone)]
pub(crate) struct TensorReference<'a> {
    pub storage: StorageReference<'a>,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// Everything one pickle holds.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    pub nodes: Vec<Node<'a>>,
    pub root: Value<'a>,
    /// Bytes read, up to and including the end mark.
    pub consumed: usize,
}

/// Reads the pickle at the start of `bytes`.
///
/// # Errors
/// A sentence saying at which byte what was found.
pub(crate) fn read(bytes: &[u8]) -> Result<Pickle<'_>, String> {
    let bytes = &bytes[..bytes.len().min(LONGEST_PICKLE)];
    let mut machine = Machine {
        bytes,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        pushes: 0,
    };
    match machine.run() {
        Ok(root) => Ok(Pickle { nodes: machine.nodes, root, consumed: machine.at }),
        Err(problem) => Err(format!("pickle, byte {}: {problem}", machine.at)),
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Value<'a>>,
    /// Stack heights at which a mark was set.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    pushes: usize,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value<'a>, String> {
        loop {
            let opcode = self.take(1)?[0];
            match opcode {
                0x80 => {
                    let version = self.take(1)?[0];
                    if version != 2 {
                        return Err(format!("protocol {version}; PyTorch writes protocol 2"));
                    }
                }
                b'}' => self.push_node(Node::Dict(Vec::new()))?,
                b']' => self.push_node(Node::List(Vec::new()))?,
                b')' => self.push_node(Node::Tuple(Vec::new()))?,
                b'(' => {
                    bounded(self.marks.len())?;
                    self.marks.push(self.stack.len());
                }
                b'q' => {
                    let index = u32::from(self.take(1)?[0]);
                    self.memoize(index)?;
                }
                b'r' => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.memoize(index)?;
                }
                b'h' => {
                    let index = u32::from(self.take(1)?[0]);
                    self.recall(index)?;
                }
                b'j' => {
                    let index = u32::from_le_bytes(self.array()?);
                    self.recall(index)?;
                }
                b'X' => {
                    let length = u32::from_le_bytes(self.array()?) as usize;
                    self.push_text(length)?;
                }
                // Texts of Python 2.
                b'U' => {
                    let length = usize::from(self.take(1)?[0]);
                    self.push_text(length)?;
                }
                b'T' => {
                    let length = u32::from_le_bytes(self.array()?) as usize;
                    self.push_text(length)?;
                }
                b'J' => {
                    let number = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(number.into()))?;
                }
                b'K' => {
                    let number = self.take(1)?[0];
                    self.push(Value::Int(number.into()))?;
                }
                b'M' => {
                    let number = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(number.into()))?;
                }
                0x8a => {
                    let number = self.long()?;
                    self.push(Value::Int(number))?;
                }
                b'G' => {
                    let number = f64::from_be_bytes(self.array()?);
                    self.push(Value::Float(number))?;
                }
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push_node(Node::Tuple(items))?;
                }
                0x85..=0x87 => {
                    let start = self.height(usize::from(opcode) - 0x84)?;
                    let items = self.stack.split_off(start);
                    self.push_node(Node::Tuple(items))?;
                }
                b'c' => {
                    let global = self.global()?;
                    self.push(Value::Global(global))?;
                }
                b'Q' => {
                    let identifier = self.pop()?;
                    let storage = self.storage(identifier)?;
                    self.push_node(Node::Storage(storage))?;
                }
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                b's' => {
                    let start = self.height(2)?;
                    let items = self.stack.split_off(start);
                    self.set_items(&items)?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(&items)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(&[item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.append(&items)?;
                }
                b'.' => {
                    let root = self.pop()?;
                    if !self.marks.is_empty() || !self.stack.is_empty() {
                        return Err("values are left over at the end".to_owned());
                    }
                    return Ok(root);
                }
                other => {
                    return Err(format!(
                        "opcode 0x{other:02x} does not occur in PyTorch checkpoints; the file is damaged or unsafe"
                    ));
                }
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let taken = self.bytes[self.at..].get(..length);
        let taken = taken.ok_or_else(|| {
            format!("{length} bytes expected, {} left; the pickle is truncated", self.bytes.len() - self.at)
        })?;
        self.at += length;
        Ok(taken)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], String> {
        let mut array = [0; LENGTH];
        array.copy_from_slice(self.take(LENGTH)?);
        Ok(array)
    }

    /// A little-endian two's complement integer of any length; more than 16 bytes never occur.
    fn long(&mut self) -> Result<i128, String> {
        let length = usize::from(self.take(1)?[0]);
        if length > 16 {
            return Err(format!("an integer of {length} bytes; at most 16 are accepted"));
        }
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut wide = if negative { [0xff; 16] } else { [0; 16] };
        wide[..length].copy_from_slice(bytes);
        Ok(i128::from_le_bytes(wide))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(1024).position(|&byte| byte == b'\n').ok_or("a name without an end")?;
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| "a name is not UTF-8")?;
        self.at += end + 1;
        Ok(line)
    }

    fn global(&mut self) -> Result<Global, String> {
        let (module, name) = (self.line()?, self.line()?);
        Global::named(module, name).ok_or_else(|| {
            format!(
                "refers to `{}.{}`, which is not one of the tensor constructors of PyTorch; refused. \
                 Load the file where it was made and save only its state dict",
                module.escape_debug(),
                name.escape_debug()
            )
        })
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        bounded(self.stack.len())?;
        self.count(1)?;
        self.stack.push(value);
        Ok(())
    }

    fn count(&mut self, values: usize) -> Result<(), String> {
        self.pushes = self.pushes.saturating_add(values);
        if self.pushes > MOST_PUSHES {
            return Err(format!("more than {MOST_PUSHES} values; refused"));
        }
        Ok(())
    }

    fn push_text(&mut self, length: usize) -> Result<(), String> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "text is not UTF-8")?;
        self.push(Value::Str(text))
    }

    fn push_node(&mut self, node: Node<'a>) -> Result<(), String> {
        bounded(self.nodes.len())?;
        self.nodes.push(node);
        self.push(Value::Node(self.nodes.len() - 1))
    }

    /// Stack height with `count` values off, if so many lie above the last mark.
    fn height(&self, count: usize) -> Result<usize, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let height = self.stack.len().checked_sub(count).filter(|&height| height >= floor);
        height.ok_or_else(|| "the stack is empty".to_owned())
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        let height = self.height(1)?;
        let value = self.stack[height];
        self.stack.truncate(height);
        Ok(value)
    }

    fn top(&self) -> Result<Value<'a>, String> {
        Ok(self.stack[self.height(1)?])
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().ok_or("no mark on the stack")?;
        Ok(self.stack.split_off(mark))
    }

    fn memoize(&mut self, index: u32) -> Result<(), String> {
        bounded(self.memo.len())?;
        let value = self.top()?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), String> {
        let value = self.memo.get(&index).copied().ok_or_else(|| format!("memo {index} was never set"))?;
        self.push(value)
    }

    fn set_items(&mut self, items: &[Value<'a>]) -> Result<(), String> {
        let (pairs, rest) = items.as_chunks::<2>();
        let Value::Node(index) = self.top()? else {
            return Err("items for something that is no dict".to_owned());
        };
        let Node::Dict(dict) = &mut self.nodes[index] else {
            return Err("items for something that is no dict".to_owned());
        };
        if !rest.is_empty() {
            return Err("a key without a value".to_owned());
        }
        dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn append(&mut self, items: &[Value<'a>]) -> Result<(), String> {
        let Value::Node(index) = self.top()? else {
            return Err("items for something that is no list".to_owned());
        };
        let Node::List(list) = &mut self.nodes[index] else {
            return Err("items for something that is no list".to_owned());
        };
        list.extend_from_slice(items);
        Ok(())
    }

    fn tuple(&self, value: Value<'a>) -> Result<&[Value<'a>], String> {
        match value {
            Value::Node(index) => match &self.nodes[index] {
                Node::Tuple(items) => Ok(items),
                _ => Err("a tuple was expected".to_owned()),
            },
            _ => Err("a tuple was expected".to_owned()),
        }
    }

    fn storage(&self, identifier: Value<'a>) -> Result<StorageReference<'a>, String> {
        match *self.tuple(identifier)? {
            [
                Value::Str("storage"),
                Value::Global(Global::Storage(dtype)),
                Value::Str(key),
                Value::Str(_device),
                Value::Int(elements),
                // Only the legacy form has a sixth element.
                ref view,
            ] => {
                let view = self.view(*view)?;
                Ok(StorageReference { view, ..StorageReference::new(dtype, key, elements)? })
            }
            [
                Value::Str("storage"),
                Value::Global(Global::Storage(dtype)),
                Value::Str(key),
                Value::Str(_device),
                Value::Int(elements),
            ] => StorageReference::new(dtype, key, elements),
            _ => Err("a persistent id that is not (\"storage\", type, key, device, count)".to_owned()),
        }
    }

    /// None, or (key of the view, offset, length).
    fn view(&self, value: Value<'a>) -> Result<Option<View>, String> {
        if value == Value::None {
            return Ok(None);
        }
        match self.tuple(value)? {
            [Value::Str(_key), start, length] => {
                let start = size(*start)?;
                let end = start.checked_add(size(*length)?);
                Ok(Some(View { start, end: end.ok_or("a view that ends beyond all memory")? }))
            }
            _ => Err("view metadata that is not (key, offset, length)".to_owned()),
        }
    }

    fn reduce(&mut self) -> Result<(), String> {
        let arguments = self.pop()?;
        let callable = self.pop()?;
        let arguments = self.tuple(arguments)?;
        match callable {
            Value::Global(Global::RebuildTensor) => {
                let tensor = self.tensor(arguments)?;
                self.push_node(Node::Tensor(tensor))
            }
            Value::Global(Global::RebuildParameter) => {
                let inner = arguments.first().copied();
                match inner {
                    Some(Value::Node(index)) if matches!(self.nodes[index], Node::Tensor(_)) => {
                        self.push(Value::Node(index))
                    }
                    _ => Err("a parameter that holds no tensor".to_owned()),
                }
            }
            Value::Global(Global::OrderedDict) if arguments.is_empty() => {
                self.push_node(Node::Dict(Vec::new()))
            }
            // Python 2: a list of pairs, each a list.
            Value::Global(Global::OrderedDict) if arguments.len() == 1 => {
                let items = self.pairs(arguments[0])?;
                // One list could become many dicts.
                self.count(items.len())?;
                self.push_node(Node::Dict(items))
            }
            _ => Err("a call that is not one of PyTorch's tensor constructors; refused".to_owned()),
        }
    }

    fn pairs(&self, value: Value<'a>) -> Result<Vec<(Value<'a>, Value<'a>)>, String> {
        let items = |value: Value<'a>| match value {
            Value::Node(index) => match &self.nodes[index] {
                Node::List(items) | Node::Tuple(items) => Ok(items),
                _ => Err("an OrderedDict that is not made of a list".to_owned()),
            },
            _ => Err("an OrderedDict that is not made of a list".to_owned()),
        };
        items(value)?
            .iter()
            .map(|&pair| match items(pair)?[..] {
                [key, value] => Ok((key, value)),
                _ => Err("an OrderedDict of items that are no pairs".to_owned()),
            })
            .collect()
    }

    fn tensor(&self, arguments: &[Value<'a>]) -> Result<TensorReference<'a>, String> {
        let [Value::Node(storage), Value::Int(offset), shape, strides, ..] = *arguments else {
            return Err("a tensor needs storage, offset, shape and strides".to_owned());
        };
        let Node::Storage(storage) = self.nodes[storage] else {
            return Err("a tensor without a storage".to_owned());
        };
        let numbers = |value: Value<'a>| -> Result<Vec<usize>, String> {
            let items = self.tuple(value)?;
            if items.len() > LARGEST_RANK {
                return Err(format!(
                    "a tensor with {} axes; at most {LARGEST_RANK} are accepted",
                    items.len()
                ));
            }
            items.iter().map(|&item| size(item)).collect()
        };
        let tensor = TensorReference {
            storage,
            offset: size(Value::Int(offset))?,
            shape: numbers(shape)?,
            strides: numbers(strides)?,
        };
        if tensor.shape.len() != tensor.strides.len() {
            return Err("a tensor with more sizes than strides, or fewer".to_owned());
        }
        Ok(tensor)
    }

    /// The state given to an `OrderedDict` is module metadata, which nothing here needs.
    fn build(&mut self) -> Result<(), String> {
        self.pop()?;
        match self.top()? {
            Value::Node(index) if matches!(self.nodes[index], Node::Dict(_)) => Ok(()),
            _ => Err("state for something that is no dict; refused".to_owned()),
        }
    }
}

impl<'a> StorageReference<'a> {
    fn new(dtype: StoredDType, key: &'a str, elements: i128) -> Result<Self, String> {
        Ok(Self { dtype, key, elements: size(Value::Int(elements))?, view: None })
    }
}

/// A name from a file, made safe to print and to keep.
pub fn printable(name: &str) -> String {
    name.chars().take(200).flat_map(char::escape_debug).collect()
}

/// A tensor name of bounded length: one long text could be the key of a million entries.
pub(crate) fn checked_name(name: &str) -> Result<&str, String> {
    if name.len() <= LONGEST_NAME {
        return Ok(name);
    }
    Err(format!(
        "the tensor name `{}`… has {} bytes; at most {LONGEST_NAME} are accepted",
        printable(name),
        name.len()
    ))
}

fn size(value: Value<'_>) -> Result<usize, String> {
    match value {
        Value::Int(number) => {
            usize::try_from(number).map_err(|_| format!("{number} where a size was expected"))
        }
        _ => Err("a size that is not a number".to_owned()),
    }
}

fn bounded(count: usize) -> Result<(), String> {
    if count < MOST_OBJECTS { Ok(()) } else { Err(format!("more than {MOST_OBJECTS} objects; refused")) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> String {
        read(bytes).unwrap_err()
    }

    #[test]
    fn plain_values_are_read() {
        let pickle =
            read(b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x05X\x01\x00\x00\x00b\x8a\x02\xff\xffu.rest").unwrap();
        assert_eq!(pickle.consumed, 26);
        let Value::Node(root) = pickle.root else { panic!("no dict") };
        let Node::Dict(items) = &pickle.nodes[root] else { panic!("no dict") };
        assert_eq!(items[..], [(Value::Str("a"), Value::Int(5)), (Value::Str("b"), Value::Int(-1))]);
    }

    #[test]
    fn foreign_callables_are_named_and_refused() {
        assert!(
            refusal(b"\x80\x02cos\nsystem\nq\x00X\x02\x00\x00\x00lsq\x01\x85q\x02Rq\x03.")
                .contains("os.system")
        );
        assert!(refusal(b"\x80\x02cbuiltins\neval\n.").contains("builtins.eval"));
        assert!(refusal(b"\x80\x02ctorch\nload\n.").contains("torch.load"));
        // INST, OBJ, NEWOBJ and STACK_GLOBAL reach code by other doors.
        for opcode in [b'i', b'o', 0x81, 0x92, 0x93] {
            assert!(refusal(&[0x80, 2, opcode]).contains("does not occur"));
        }
        // Calling a storage type or an object is not possible either.
        assert!(refusal(b"\x80\x02ctorch\nFloatStorage\n)R.").contains("refused"));
    }

    #[test]
    fn broken_programs_are_refused() {
        for bytes in [
            &b""[..],
            b"\x80",
            b"\x80\x04.",
            b"\x80\x02.",
            b"\x80\x02t.",
            b"\x80\x02h\x05.",
            b"\x80\x02X\xff\xff\xff\xffabc.",
            b"\x80\x02K\x01K\x02s.",
            b"\x80\x02K\x01K\x02a.",
            b"\x80\x02}(K\x01u.",
            b"\x80\x02(K\x01\x85.",
            b"\x80\x02K\x01Q.",
            b"\x80\x02\x8a\x20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.",
        ] {
            assert!(read(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn floods_are_stopped() {
        for opcode in [b']', b'(', b'N'] {
            let mut bytes = vec![0x80, 2];
            bytes.resize(MOST_OBJECTS + 100, opcode);
            assert!(refusal(&bytes).contains("more than"));
        }
        // Deep nesting neither recurses nor overflows when it is dropped.
        let mut nested = vec![0x80, 2, b'N'];
        nested.resize(500_000, 0x85);
        nested.push(b'.');
        assert!(read(&nested).is_ok());
    }
}
