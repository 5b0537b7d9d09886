-- Forgets hints that are acknowledged, and hands out the next ones, which are held from now on.
-- KEYS: waiting, fetched, traces, refill. ARGV: for how many ms a fetched hint is held, how many hints at most, the channel that
-- wakes relays, then the acknowledged ids.
-- Returns for each hint its id, with its traceparent after a space where there is one.
local waiting, fetched, traces, refill = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- First, whatever else is to do: a replica refuses a write, and so the caller learns that it asks a replica.
redis.call('zremrangebyscore', fetched, '-inf', now - ARGV[1])
redis.call('zremrangebyscore', fetched, '(' .. now, '+inf')
if #ARGV > 3 then
  redis.call('zrem', fetched, unpack(ARGV, 4))
end
if ARGV[2] == '0' then
  return {}
end

local popped = redis.call('zpopmin', waiting, ARGV[2])
local hints, marks = {}, {}
for i = 1, #popped, 2 do
  hints[#hints + 1] = popped[i]
  marks[#marks + 1] = now
  marks[#marks + 1] = popped[i]
end
if #hints == 0 then
  return hints
end
redis.call('zadd', fetched, unpack(marks))

local left = redis.call('get', refill)
if left and redis.call('zcard', waiting) <= tonumber(left) then
  redis.call('del', refill)
  redis.call('publish', ARGV[3], 1)
end

if redis.call('exists', traces) == 1 then
  local found = redis.call('hmget', traces, unpack(hints))
  redis.call('hdel', traces, unpack(hints))
  for i, trace in ipairs(found) do
    if trace then
      hints[i] = hints[i] .. ' ' .. trace
    end
  end
end
return hints
