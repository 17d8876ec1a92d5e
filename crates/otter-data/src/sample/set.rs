//! One opened set of a data set.

use std::borrow::Cow;

use crate::config::Group;
use crate::error::Result;
use crate::tables::instruction_table::{ContextTable, InstructionTable};

/// One opened set.
pub(crate) struct Set {
    pub(crate) name: String,
    pub(crate) group: Group,
    pub(crate) instructions: InstructionTable,
    pub(crate) train: Option<ContextTable>,
    /// Position in `tables` of the data set.
    pub(crate) table: Option<usize>,
    pub(crate) task_descriptions: Vec<String>,
}

impl Set {
    /// Id of a sample: an entry of the train file if there is one, otherwise of the instruction file.
    pub(crate) fn id(&self, entry: usize) -> Result<Cow<'_, str>> {
        match &self.train {
            Some(train) => train.id(entry),
            None => self.instructions.id(entry),
        }
    }
}
