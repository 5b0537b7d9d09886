-- Raises the beat, only where epoch and beat are still those that were judged.
-- KEYS: epoch hash. ARGV: epoch, beat, new beat. Returns 1 where it did.
local seen = redis.call('hmget', KEYS[1], 'epoch', 'beat')
if seen[1] == ARGV[1] and (seen[2] or '0') == ARGV[2] then
  redis.call('hset', KEYS[1], 'beat', ARGV[3])
  return 1
end
return 0
