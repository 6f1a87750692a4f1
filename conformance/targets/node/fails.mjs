throw new RangeError('as the suite asked');
