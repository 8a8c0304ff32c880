//! Update functions that keep state: AdaGrad and FTRL-proximal.
//!
//! State lies beside what it belongs to: a key of a table of width `d * parts` holds d values, then the d elements of
//! each state. An update is as wide as the key; its first d elements are the gradient, the others are not looked at.
//! Copying, saving or moving such a table takes its state along; scaling it and its norm count the state like values.
//! Invariant: a gradient of zero, or one so small that its square is zero as an element of the table, changes nothing.

use super::Update;
use crate::error::{Error, Result};
use crate::value::{Element, Type};

/// The square of a gradient; none where an element of the table can't tell it from zero.
#[inline]
fn square<T: Element>(gradient: f64) -> Option<f64> {
    let square = gradient * gradient;
    (T::from_f64(square) != T::default()).then_some(square)
}

/// Refuses a table whose keys can't hold `parts` equal parts of numbers with fractions.
fn fits(name: &str, parts: &[&str], element: Type, width: u32) -> Result<()> {
    let count = parts.len() as u32;
    if !width.is_multiple_of(count) {
        return Err(Error::user(format!(
            "{name} keeps {} side by side, so it needs a width that is a multiple of {count}, not {width}",
            parts.join(", ")
        )));
    }
    match element {
        Type::F32 | Type::F64 => Ok(()),
        Type::U32 | Type::I32 => Err(Error::user(format!("{name} needs elements of f32 or f64, not {element:?}"))),
    }
}

/// AdaGrad (Duchi, Hazan and Singer, JMLR 2011), by coordinate, on gradient g:
/// ```text
/// s += g^2;  w -= step g / sqrt(s)
/// ```
/// A key holds w, then s; both start at 0.
#[derive(Debug, Clone, Copy)]
pub struct Adagrad {
    step: f64,
}

impl Adagrad {
    /// From a table's parameters: the step size.
    pub fn new(params: &[f64]) -> Result<Self> {
        match *params {
            [step] if step.is_finite() => Ok(Self { step }),
            _ => Err(Error::user(format!("adagrad takes one parameter, the step size, not {params:?}"))),
        }
    }
}

impl Update for Adagrad {
    #[inline]
    fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
        let (values, squares) = current.split_at_mut(current.len() / 2);
        for ((value, squares), gradient) in values.iter_mut().zip(squares).zip(update) {
            let g = gradient.to_f64();
            let Some(square) = square::<T>(g) else { continue };
            let sum = squares.to_f64() + square;
            *squares = T::from_f64(sum);
            *value = T::from_f64(value.to_f64() - self.step * g / sum.sqrt());
        }
    }

    /// Refuses a table of integers, or of an odd width.
    fn fits(&self, element: Type, width: u32) -> Result<()> {
        fits("adagrad", &["values", "sums of squares"], element, width)
    }
}

/// FTRL-proximal (McMahan et al., KDD 2013, algorithm 1), by coordinate, on gradient g:
/// ```text
/// z += g - (sqrt(n + g^2) - sqrt(n)) / alpha w;  n += g^2
/// w = 0 if |z| <= l1, else (sign(z) l1 - z) / ((beta + sqrt(n)) / alpha + l2)
/// ```
/// A key holds w, then z, then n; all start at 0. w follows from z and n: what else was put there is lost at the next
/// update.
#[derive(Debug, Clone, Copy)]
pub struct Ftrl {
    alpha: f64,
    beta: f64,
    l1: f64,
    l2: f64,
}

impl Ftrl {
    /// From a table's parameters: alpha, beta, l1, l2.
    pub fn new(params: &[f64]) -> Result<Self> {
        match *params {
            [alpha, beta, l1, l2]
                if alpha > 0.0 && params.iter().all(|x| x.is_finite()) && params[1..].iter().all(|x| *x >= 0.0) =>
            {
                Ok(Self { alpha, beta, l1, l2 })
            }
            _ => Err(Error::user(format!(
                "ftrl takes four parameters, alpha above 0 and beta, l1, l2 not below it, not {params:?}"
            ))),
        }
    }
}

impl Update for Ftrl {
    #[inline]
    fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
        let part = current.len() / 3;
        let (values, state) = current.split_at_mut(part);
        let (zs, ns) = state.split_at_mut(part);
        for (((value, z), n), gradient) in values.iter_mut().zip(zs).zip(ns).zip(update) {
            let g = gradient.to_f64();
            let Some(square) = square::<T>(g) else { continue };
            let before = n.to_f64();
            let sum = before + square;
            let sigma = (sum.sqrt() - before.sqrt()) / self.alpha;
            let new_z = z.to_f64() + g - sigma * value.to_f64();
            (*z, *n) = (T::from_f64(new_z), T::from_f64(sum));
            let beyond = new_z.abs() - self.l1;
            *value = T::from_f64(if beyond <= 0.0 {
                0.0
            } else {
                -new_z.signum() * beyond / ((self.beta + sum.sqrt()) / self.alpha + self.l2)
            });
        }
    }

    /// Refuses a table of integers, or of a width that is no multiple of 3.
    fn fits(&self, element: Type, width: u32) -> Result<()> {
        fits("ftrl", &["values", "z", "n"], element, width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_tables_that_do_not_fit_are_refused_with_their_values() {
        let message = |r: Result<()>| r.unwrap_err().message;
        let adagrad = Adagrad::new(&[0.1]).unwrap();
        assert_eq!(
            message(adagrad.fits(Type::F32, 3)),
            "adagrad keeps values, sums of squares side by side, so it needs a width that is a multiple of 2, not 3"
        );
        assert_eq!(message(adagrad.fits(Type::I32, 2)), "adagrad needs elements of f32 or f64, not I32");
        assert!(adagrad.fits(Type::F64, 6).is_ok());
        let ftrl = Ftrl::new(&[0.1, 1.0, 0.0, 0.0]).unwrap();
        assert!(message(ftrl.fits(Type::F32, 4)).contains("a multiple of 3, not 4"));
        assert!(ftrl.fits(Type::F32, 3).is_ok());
        for params in [&[][..], &[f64::NAN], &[1.0, 2.0]] {
            assert!(Adagrad::new(params).unwrap_err().message.contains("the step size, not ["));
        }
        for params in [&[0.0, 1.0, 0.0, 0.0][..], &[0.1, 1.0, -1.0, 0.0], &[0.1, 1.0, 0.0], &[0.1, 1.0, 0.0, f64::NAN]]
        {
            assert!(Ftrl::new(params).unwrap_err().message.contains("alpha above 0"), "{params:?}");
        }
    }

    #[test]
    fn a_gradient_of_zero_changes_nothing() {
        let mut current = [0.0f64; 6];
        Adagrad::new(&[0.5]).unwrap().apply(&mut current, &[0.0, 1e-200, 0.0, 7.0, 7.0, 7.0]);
        assert_eq!(current, [0.0; 6]);
        Ftrl::new(&[0.1, 0.0, 0.0, 0.0]).unwrap().apply(&mut current, &[0.0, 1e-200, 7.0, 7.0, 7.0, 7.0]);
        assert_eq!(current, [0.0; 6]);
    }

    #[test]
    fn nor_does_one_whose_square_a_table_of_f32_holds_as_zero() {
        let (adagrad, ftrl) = (Adagrad::new(&[0.5]).unwrap(), Ftrl::new(&[0.1, 0.0, 0.0, 0.0]).unwrap());
        for tiny in [2e-23f32, -1e-30] {
            let mut current = [0.0f32; 3];
            adagrad.apply(&mut current[..2], &[tiny, 0.0]);
            assert_eq!(current, [0.0; 3]);
            ftrl.apply(&mut current, &[tiny, 0.0, 0.0]);
            assert_eq!(current, [0.0; 3]);
        }
        // The least that it holds as more counts like any other first gradient.
        let (mut least, mut one) = ([0.0f32; 2], [0.0f32; 2]);
        adagrad.apply(&mut least, &[3e-23, 0.0]);
        adagrad.apply(&mut one, &[1.0, 0.0]);
        assert!(least[0] == one[0] && least[1] > 0.0, "{least:?} {one:?}");
    }

    /// With beta, l1 and l2 zero, FTRL-proximal is AdaGrad with step alpha (section 3.1 of its paper).
    #[test]
    fn ftrl_without_penalties_is_adagrad() {
        let (ftrl, adagrad) = (Ftrl::new(&[0.3, 0.0, 0.0, 0.0]).unwrap(), Adagrad::new(&[0.3]).unwrap());
        let (mut a, mut b) = ([0.0f64; 3], [0.0f64; 2]);
        for g in [1.0, -0.25, 0.5, 3.0, -2.0, 0.125] {
            ftrl.apply(&mut a, &[g, 0.0, 0.0]);
            adagrad.apply(&mut b, &[g, 0.0]);
            assert!((a[0] - b[0]).abs() < 1e-12, "{a:?} {b:?}");
        }
        assert!(b[0].abs() > 0.1);
    }
}
