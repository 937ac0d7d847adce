//! How exchanges go on once they are admitted, and what becomes of what they took.

use std::rc::Rc;

use tollgate::policy::charge::{ChargeClass, ChargeRule, Stated, Verdict};
use tollgate::policy::limit::LimitKind;
use tollgate::policy::money::Money;
use tollgate::policy::order::Asks;
use tollgate::policy::outcome::{Charge, Money as Column, Outcome, Record as Fate, Stage};
use tollgate::store::{Completion, Opening, Order, Reservation};

use super::model::{Row, State, Taken};
use super::world::{BOUNDS, Exchange, Listed, World};
use super::{answer, body};

impl World {
    pub(super) fn go(&mut self, which: usize, verdict: usize, stated: u64, ending: usize) {
        if self.exchanges.is_empty() {
            return;
        }
        let which = which % self.exchanges.len();
        match self.exchanges[which].reservation.stage() {
            Stage::Held | Stage::Committed => self.exchanges[which].reservation.sending(),
            Stage::Sending => self.learn(which, verdict, stated),
            Stage::Known(_) => self.end(which, ending),
            Stage::Closed => unreachable!("nobody holds a closed one"),
        }
    }

    pub(super) fn learn(&mut self, which: usize, verdict: usize, stated: u64) {
        let verdict = [
            Verdict::of_status(200),
            Verdict::of_status(404),
            Verdict::of_status(500),
            Verdict::of_status(503),
            Verdict::without_head(Outcome::NotProcessed),
            Verdict::without_head(Outcome::Unknown),
            Verdict::of_status(302),
        ][verdict];
        let rule = ChargeRule {
            release: [503].into(),
            charge_on: (stated == 3)
                .then(|| [ChargeClass::Success, ChargeClass::ClientError].into()),
            ..ChargeRule::default()
        };
        let said = if stated == 0 { Stated::Unasked } else { Stated::Cost(Money(stated)) };
        let exchange = &mut self.exchanges[which];
        let row = exchange.reservation.learned(&self.ground.ledger, verdict, &rule, said);
        exchange.fate = Some(row.record);
        if verdict.outcome != Outcome::NotProcessed {
            exchange.before = None;
        }
        let mut doubted = Vec::new();
        for (kind, mut taken) in std::mem::take(&mut exchange.taken) {
            let back = match kind {
                LimitKind::Quota if row.quota == Charge::Back => taken.amount,
                LimitKind::Rate | LimitKind::Concurrent | LimitKind::Quota => continue,
                LimitKind::Spend | LimitKind::Credit => match (row.money, said) {
                    (Column::Back, _) => taken.amount,
                    (Column::Kept, _) if verdict.outcome == Outcome::Unknown => {
                        doubted.push(taken);
                        0
                    }
                    (Column::KeptUpToReserve, Stated::Cost(cost)) => {
                        taken.amount.saturating_sub(cost.0)
                    }
                    (Column::Kept | Column::KeptUpToReserve, _) => 0,
                },
            };
            taken.amount = back;
            self.model.give_back(taken);
        }
        self.list(doubted, which);
    }

    /// Money of an exchange that the ledger must have listed by now.
    pub(super) fn list(&mut self, mut doubted: Vec<Taken>, which: usize) {
        doubted.retain(|taken| taken.amount > 0);
        let new: Vec<_> = {
            let all = self.ground.ledger.unresolved();
            all.into_iter().filter(|(pending, _)| !self.ids.contains(&pending.id)).collect()
        };
        assert_eq!(new.len(), usize::from(!doubted.is_empty()));
        for (pending, _) in new {
            assert_eq!(pending.record.map(|id| id.0), self.exchanges[which].key);
            self.ids.insert(pending.id);
            let key = self.exchanges[which].key;
            let claimed = pending.at.0;
            self.listed.push(Listed { id: pending.id, taken: doubted.clone(), key, claimed });
        }
    }

    pub(super) fn end(&mut self, which: usize, ending: usize) {
        let Exchange { mut reservation, key, before, fate, .. } = self.exchanges.remove(which);
        let completion = [
            Some(Completion::Answered(answer(ending * 100 + 50), body())),
            Some(Completion::NotReplayable),
            Some(Completion::Broken),
            None,
        ][ending]
            .clone();
        let by_completion = match completion {
            Some(Completion::Answered(..)) => None,
            Some(Completion::NotReplayable) => Some(State::NotReplayable),
            Some(Completion::Broken) | None => Some(State::Unknown),
        };
        if let Some(completion) = completion {
            reservation.complete(&self.ground.ledger, completion);
        }
        reservation.close(&self.ground.ledger);
        let kept = self.model.kept(ending * 100 + 50, BOUNDS.bytes);
        match fate {
            Some(Fate::ClaimRemoved) => self.put(key, before, None),
            Some(Fate::Unknown) | None => self.put(key, None, Some(State::Unknown)),
            Some(Fate::Stored | Fate::StoredWhenComplete) => {
                self.put(key, None, Some(by_completion.unwrap_or(kept)));
            }
        }
    }

    pub(super) fn put(&mut self, key: Option<u128>, before: Option<Row>, state: Option<State>) {
        let Some(key) = key else { return };
        match (before, state) {
            (_, Some(state)) => {
                let row = self.model.rows.get_mut(&key).expect("in flight until now");
                (row.state, row.listed) = (state, row.ends);
            }
            (Some(before), None) => {
                self.model.rows.insert(key, before);
            }
            (None, None) => {
                self.model.rows.remove(&key);
            }
        }
    }

    pub(super) fn close(&mut self, which: usize) {
        if self.exchanges.is_empty() {
            return;
        }
        let which = which % self.exchanges.len();
        let stage = self.exchanges[which].reservation.stage();
        if matches!(stage, Stage::Known(_)) {
            return self.end(which, 3);
        }
        let Exchange { reservation, taken, key, before, fate: _ } = self.exchanges.remove(which);
        reservation.close(&self.ground.ledger);
        if stage == Stage::Sending {
            let doubted = taken.into_iter().filter(|(kind, _)| kind.is_money()).map(|t| t.1);
            let doubted: Vec<Taken> = doubted.collect();
            self.put(key, None, Some(State::Unknown));
            let exchange = Exchange {
                reservation: self.nothing(),
                taken: Vec::new(),
                key,
                before: None,
                fate: None,
            };
            self.exchanges.push(exchange);
            self.list(doubted, self.exchanges.len() - 1);
            self.exchanges.pop();
        } else {
            for (kind, taken) in taken {
                if kind != LimitKind::Rate {
                    self.model.give_back(taken);
                }
            }
            self.put(key, before, None);
        }
    }

    pub(super) fn nothing(&self) -> Reservation {
        match self.ground.ledger.open(self.now(), &Order::of(&Rc::new(Asks::new()))) {
            Opening::Admitted(reservation, _) => reservation,
            other => panic!("nothing was asked: {other:?}"),
        }
    }

    pub(super) fn release(&mut self, which: usize) {
        let held = |exchange: &Exchange| {
            matches!(exchange.reservation.stage(), Stage::Held | Stage::Committed)
        };
        let all: Vec<usize> =
            (0..self.exchanges.len()).filter(|i| held(&self.exchanges[*i])).collect();
        let Some(which) = all.get(which) else { return };
        let Exchange { reservation, taken, key, before, .. } = self.exchanges.remove(*which);
        reservation.release(&self.ground.ledger);
        for (_, taken) in taken {
            self.model.give_back(taken);
        }
        self.put(key, before, None);
    }
}
