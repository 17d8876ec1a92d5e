//! AdamW's moments on a card, in the memory and by the kernels of the card.

use otter_nn::Tensor;
use otter_nn::backend::{AdamWStep, Card, CardBuffer, CardMoments as Borrowed};

use crate::optim::MomentPrecision;
use crate::optim::eight_bit_moments::{Place, blocks_of};
use crate::run::tensors_file::{StateElements, StateElementsMut};

/// Moments of every trained parameter.
pub(crate) struct CardMoments {
    card: Card,
    slots: Vec<SlotMoments>,
}

/// Moments of one parameter.
enum SlotMoments {
    /// First and second.
    Full([CardBuffer; 2]),
    /// Codes of the first and second, and their scales.
    EightBit([CardBuffer; 4]),
}

impl CardMoments {
    /// Zero moments for parameters at these places.
    pub(crate) fn new<'a>(
        card: Card,
        precision: MomentPrecision,
        places: impl Iterator<Item = &'a Place>,
    ) -> Self {
        let zeros = |place: &Place| {
            let len = place.elements.len();
            match precision {
                MomentPrecision::Full => SlotMoments::Full([(), ()].map(|()| card.zeros(len))),
                MomentPrecision::EightBit => {
                    let scales = || card.zeros(blocks_of(len));
                    SlotMoments::EightBit([card.zero_bytes(len), card.zero_bytes(len), scales(), scales()])
                }
            }
        };
        Self { card, slots: places.map(zeros).collect() }
    }

    /// Updates the parameter of a slot.
    pub(crate) fn update(
        &mut self,
        slot: usize,
        place: &Place,
        values: &mut Tensor,
        gradients: &Tensor,
        step: &AdamWStep,
    ) {
        let moments = match &mut self.slots[slot] {
            SlotMoments::Full(moments) => Borrowed::Full(moments.each_mut()),
            SlotMoments::EightBit(moments) => {
                Borrowed::EightBit(moments.each_mut(), place.elements.start as u64)
            }
        };
        self.card.adamw(values.on_card_mut(), gradients.on_card(), moments, step);
    }

    /// The parts of a slot's state: kind and elements.
    pub(crate) fn state(&self, slot: usize) -> Vec<(&'static str, StateElements<'_>)> {
        let card = self.card;
        match &self.slots[slot] {
            SlotMoments::Full([first, second]) => vec![
                ("first_moment", StateElements::CardF32(card, first)),
                ("second_moment", StateElements::CardF32(card, second)),
            ],
            SlotMoments::EightBit([first, second, first_scales, second_scales]) => vec![
                ("first_moment", StateElements::CardU8(card, first)),
                ("second_moment", StateElements::CardU8(card, second)),
                ("first_scale", StateElements::CardF32(card, first_scales)),
                ("second_scale", StateElements::CardF32(card, second_scales)),
            ],
        }
    }

    /// Passes the parts of a slot's state to `restore`, on the host, and copies them to the card.
    pub(crate) fn restore<E>(
        &mut self,
        slot: usize,
        mut restore: impl FnMut(&str, StateElementsMut<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let card = self.card;
        let mut singles = |kind: &str, buffer: &mut CardBuffer| {
            let mut values = vec![0.0; buffer.len()];
            restore(kind, StateElementsMut::F32(&mut values))?;
            card.write(buffer, &values);
            Ok(())
        };
        match &mut self.slots[slot] {
            SlotMoments::Full([first, second]) => {
                singles("first_moment", first)?;
                singles("second_moment", second)
            }
            SlotMoments::EightBit([first, second, first_scales, second_scales]) => {
                singles("first_scale", first_scales)?;
                singles("second_scale", second_scales)?;
                for (kind, buffer) in [("first_moment", first), ("second_moment", second)] {
                    let mut codes = vec![0; buffer.len()];
                    restore(kind, StateElementsMut::U8(&mut codes))?;
                    card.write_bytes(buffer, &codes);
                }
                Ok(())
            }
        }
    }
}
