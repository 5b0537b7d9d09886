-- Writes a fresh epoch, only where the epoch is still the one that was judged ('' for none).
-- KEYS: epoch hash. ARGV: epoch, new epoch. Returns 1 where it did.
if (redis.call('hget', KEYS[1], 'epoch') or '') == ARGV[1] then
  redis.call('del', KEYS[1])
  redis.call('hset', KEYS[1], 'epoch', ARGV[2], 'beat', '0')
  return 1
end
return 0
