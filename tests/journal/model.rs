//! What the state must be after each batch, worked out by other means than the journal's; and a hand that makes batches.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::smallvec;
use tollgate::clock::Wall;
use tollgate::policy::idempotency::RecordId;
use tollgate::policy::limit::{LimitKind, SubjectKey};
use tollgate::policy::meter::{Block, Meter};
use tollgate::store::{Batch, Doubt, Op, Progress, ReservationId, Restored};

use crate::samples::{MONTH, NOW, answer, meter, pending, record, revoked};

/// All that matters of a state, in plain numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    /// Use, by subject and kind.
    used: BTreeMap<(u128, LimitKind), u64>,
    granted: BTreeMap<u128, u64>,
    pending: BTreeMap<u128, (u64, Option<&'static str>)>,
    records: BTreeMap<u128, String>,
    revoked: BTreeSet<u128>,
    seen: BTreeMap<u128, i64>,
    acts: BTreeSet<String>,
}

impl Model {
    /// What the journal gave back.
    pub(crate) fn of(restored: &Restored) -> Model {
        let mut model = Model::default();
        for (id, meter) in &restored.meters {
            let subject = id.subject.0;
            let used = match meter {
                Meter::Quota(tally) | Meter::Spend(tally) => tally.remembers().2,
                Meter::Credit(purse) => {
                    model.granted.insert(subject, purse.granted);
                    purse.used
                }
                other => panic!("{other:?}"),
            };
            model.used.insert((subject, id.kind), used);
        }
        for (pending, doubt) in &restored.pending {
            let amount = pending.charges[0].amount;
            model.pending.insert(pending.id.0, (amount, doubt.map(doubt_name)));
        }
        for (id, record) in &restored.records {
            model.records.insert(id.0, format!("{:?}", record.progress));
        }
        model.revoked = restored.revoked.iter().map(|(key, _)| key.0).collect();
        model.seen = restored.seen.iter().map(|(key, at)| (key.0, at.0)).collect();
        model.acts = restored.acts.iter().map(|(id, ..)| id.to_string()).collect();
        model.without_nothings()
    }

    fn without_nothings(mut self) -> Model {
        self.used.retain(|_, used| *used > 0);
        self.granted.retain(|_, granted| *granted > 0);
        self
    }

    /// The state after one more batch.
    #[must_use]
    pub(crate) fn after(&self, batch: &Batch) -> Model {
        let mut next = self.clone();
        for op in batch {
            next.apply(op);
        }
        next.without_nothings()
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Block(meter, block) => {
                let used = self.used.entry((meter.subject.0, meter.kind)).or_default();
                *used = (*used).max(block.to);
            }
            Op::Reserve(pending) => {
                self.pending.insert(pending.id.0, (pending.charges[0].amount, None));
                for charge in &pending.charges {
                    let meter = charge.meter;
                    *self.used.entry((meter.subject.0, meter.kind)).or_default() += charge.amount;
                }
            }
            Op::Settle { id, back } => {
                if self.pending.remove(&id.0).is_some() {
                    for charge in back {
                        let meter = charge.meter;
                        let used = self.used.entry((meter.subject.0, meter.kind)).or_default();
                        *used -= charge.amount;
                    }
                }
            }
            Op::Doubt(id, doubt) => {
                if let Some(pending) = self.pending.get_mut(&id.0) {
                    pending.1 = Some(doubt_name(*doubt));
                }
            }
            Op::Record(id, record) => {
                self.records.insert(id.0, format!("{:?}", record.progress));
            }
            Op::Forget(id) => drop(self.records.remove(&id.0)),
            Op::TopUp { meter, amount } => {
                *self.granted.entry(meter.subject.0).or_default() += amount;
            }
            Op::Revoke(key, _) => drop(self.revoked.insert(key.0)),
            Op::Restore(key) => drop(self.revoked.remove(&key.0)),
            Op::Seen(key, at) => {
                let seen = self.seen.entry(key.0).or_insert(at.0);
                *seen = at.0.max(*seen);
            }
            Op::Act { id, .. } => drop(self.acts.insert(id.to_string())),
            Op::Meter { .. } | Op::Adjust { .. } | Op::Reset(_) => {
                unreachable!("none is made here")
            }
        }
    }
}

fn doubt_name(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::Crash => "crash",
        Doubt::NoAnswer => "no answer",
    }
}

/// Numbers that look random and are the same every time.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice of a seed.
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any number.
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }
}

/// Makes batches as a gate would: reservations that are settled, records that come further.
#[derive(Debug)]
pub(crate) struct Hand {
    dice: Dice,
    open: Vec<(u128, u64)>,
    made: u128,
}

impl Hand {
    /// A hand of a seed.
    pub(crate) fn new(seed: u64) -> Hand {
        Hand { dice: Dice::new(seed), open: Vec::new(), made: 0 }
    }

    /// One batch.
    pub(crate) fn batch(&mut self) -> Batch {
        let changes = 1 + self.dice.below(4);
        (0..changes).flat_map(|_| self.changes()).collect()
    }

    fn changes(&mut self) -> Batch {
        let dice = &mut self.dice;
        let subject = u128::from(dice.below(4));
        let key = SubjectKey(subject);
        match dice.below(12) {
            0..=2 => {
                self.made += 1;
                let amount = 1 + dice.below(1000);
                self.open.push((self.made, amount));
                let claim = Op::Record(RecordId(self.made), Box::new(record(Progress::InFlight)));
                smallvec![Op::Reserve(Box::new(pending(self.made, amount))), claim]
            }
            3..=4 if !self.open.is_empty() => {
                let which = usize::try_from(dice.below(self.open.len() as u64)).unwrap();
                let (id, amount) = self.open.swap_remove(which);
                let back = pending(id, dice.below(amount + 1)).charges;
                let length = usize::try_from(dice.below(3000)).unwrap();
                let done = Op::Record(RecordId(id), Box::new(record(answer(length))));
                smallvec![Op::Settle { id: ReservationId(id), back }, done]
            }
            5 if !self.open.is_empty() => {
                let (id, _) = self.open[0];
                smallvec![Op::Doubt(ReservationId(id), Doubt::NoAnswer)]
            }
            6 => smallvec![Op::Forget(RecordId(u128::from(dice.roll()) % (1 + self.made)))],
            7 => {
                let block = Block { period: MONTH, at: NOW.wall, to: dice.below(10_000) };
                smallvec![Op::Block(meter(LimitKind::Quota, subject), block)]
            }
            8 => smallvec![Op::TopUp {
                meter: meter(LimitKind::Credit, subject),
                amount: dice.below(500),
            }],
            9 => smallvec![Op::Revoke(key, Box::new(revoked()))],
            10 => smallvec![Op::Restore(key)],
            _ => {
                let at = Wall(NOW.wall.0 + i64::try_from(dice.below(1000)).unwrap());
                let id = format!("act-{}", dice.roll()).as_str().into();
                smallvec![Op::Seen(key, at), Op::Act { id, at, answer: "{}".into() }]
            }
        }
    }
}
